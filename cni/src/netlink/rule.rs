//! Rules that choose a routing table (ip-rule(8)).

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};

use super::raw::{Attributes, Value};
use super::route::Family;
use super::socket::Answer;
use super::{Netlink, NetlinkError, missing_ok};

/// A rule that sends packets to a table. Other programs' may have conditions besides these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub family: Family,
    /// The lowest is asked first.
    pub priority: u32,
    pub table: u32,
    pub from: Option<IpNet>,
    pub to: Option<IpNet>,
    /// Name of the link a packet came in by.
    pub incoming: Option<String>,
    /// Name of the link a socket is bound to.
    pub outgoing: Option<String>,
    pub mark: Option<u32>,
}

impl Rule {
    fn message(&self) -> RuleMessage {
        let mut message = RuleMessage::default();
        let header = &mut message.header;
        header.family = self.family.address_family();
        header.action = RuleAction::ToTable;
        header.src_len = self.from.map_or(0, |net| net.prefix_len());
        header.dst_len = self.to.map_or(0, |net| net.prefix_len());
        let attributes = &mut message.attributes;
        attributes.push(RuleAttribute::Priority(self.priority));
        attributes.push(RuleAttribute::Table(self.table));
        attributes.extend(self.from.map(|net| RuleAttribute::Source(net.network())));
        attributes.extend(self.to.map(|net| RuleAttribute::Destination(net.network())));
        attributes.extend(self.incoming.clone().map(RuleAttribute::Iifname));
        attributes.extend(self.outgoing.clone().map(RuleAttribute::Oifname));
        attributes.extend(self.mark.map(RuleAttribute::FwMark));
        message
    }
}

impl Netlink {
    pub fn rules(&self, family: Family) -> Result<Vec<Rule>, NetlinkError> {
        let mut message = RuleMessage::default();
        message.header.family = family.address_family();
        let answers = self.dump(RouteNetlinkMessage::GetRule(message), format_args!("list routing rules"))?;
        Ok(answers.iter().filter_map(|answer| read(answer, family)).collect())
    }

    /// Adds a rule.
    ///
    /// # Errors
    ///
    /// `Exists` when there is the same.
    pub fn add_rule(&self, rule: &Rule) -> Result<(), NetlinkError> {
        let what = format_args!("add routing rule {} to table {}", rule.priority, rule.table);
        self.change_with(RouteNetlinkMessage::NewRule(rule.message()), NLM_F_CREATE | NLM_F_EXCL, what)
    }

    /// Removes every rule that leads to `table`.
    pub fn delete_rules_of(&self, table: u32) -> Result<(), NetlinkError> {
        for family in [Family::V4, Family::V6] {
            for rule in self.rules(family)?.iter().filter(|rule| rule.table == table) {
                self.delete_rule(rule)?;
            }
        }
        Ok(())
    }

    /// Removes a rule. False: there was none such.
    pub fn delete_rule(&self, rule: &Rule) -> Result<bool, NetlinkError> {
        let what = format_args!("delete routing rule {} to table {}", rule.priority, rule.table);
        missing_ok(self.change_with(RouteNetlinkMessage::DelRule(rule.message()), 0, what))
    }
}

/// None for a rule that does something else than to name a table.
fn read(answer: &Answer, family: Family) -> Option<Rule> {
    let payload = &answer.payload;
    // struct fib_rule_hdr: family, lengths of destination and source, type of service, table, two reserved, action.
    let [_, dst_len, src_len, _, table, _, _, action] = *payload.first_chunk()?;
    if answer.kind != libc::RTM_NEWRULE || RuleAction::from(action) != RuleAction::ToTable {
        return None;
    }
    let attributes = Attributes::after(payload, FIB_RULE_HDR);
    let number = |kind| attributes.find(kind).and_then(Value::u32);
    let network = |kind, length| IpNet::new(attributes.find(kind)?.ip()?, length).ok();
    Some(Rule {
        family,
        priority: number(FRA_PRIORITY).unwrap_or(0),
        table: number(FRA_TABLE).unwrap_or_else(|| table.into()),
        from: network(FRA_SRC, src_len),
        to: network(FRA_DST, dst_len),
        incoming: attributes.find(FRA_IIFNAME).map(Value::text),
        outgoing: attributes.find(FRA_OIFNAME).map(Value::text),
        mark: number(FRA_FWMARK),
    })
}

/// Bytes of `struct fib_rule_hdr` (include/uapi/linux/fib_rules.h).
const FIB_RULE_HDR: usize = 12;
const FRA_DST: u16 = 1;
const FRA_SRC: u16 = 2;
const FRA_IIFNAME: u16 = 3;
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_TABLE: u16 = 15;
const FRA_OIFNAME: u16 = 17;
