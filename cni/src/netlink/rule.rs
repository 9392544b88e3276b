//! Rules that choose a routing table (ip-rule(8)).

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};

use super::route::Family;
use super::{Netlink, NetlinkError, missing_ok};

/// A rule that sends packets to a table.
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
        Ok(answers
            .iter()
            .filter_map(|answer| match answer.decode() {
                Some(RouteNetlinkMessage::NewRule(message)) => read(&message),
                _ => None,
            })
            .collect())
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

    /// Removes a rule. False: there was none such.
    pub fn delete_rule(&self, rule: &Rule) -> Result<bool, NetlinkError> {
        let what = format_args!("delete routing rule {} to table {}", rule.priority, rule.table);
        missing_ok(self.change_with(RouteNetlinkMessage::DelRule(rule.message()), 0, what))
    }
}

/// None for a rule that does something else.
fn read(message: &RuleMessage) -> Option<Rule> {
    let header = &message.header;
    if header.action != RuleAction::ToTable {
        return None;
    }
    let mut rule = Rule {
        family: Family::from_address_family(header.family)?,
        priority: 0,
        table: header.table.into(),
        from: None,
        to: None,
        incoming: None,
        outgoing: None,
        mark: None,
    };
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(priority) => rule.priority = *priority,
            RuleAttribute::Table(table) => rule.table = *table,
            RuleAttribute::Source(address) => rule.from = IpNet::new(*address, header.src_len).ok(),
            RuleAttribute::Destination(address) => rule.to = IpNet::new(*address, header.dst_len).ok(),
            RuleAttribute::Iifname(name) => rule.incoming = Some(name.clone()),
            RuleAttribute::Oifname(name) => rule.outgoing = Some(name.clone()),
            RuleAttribute::FwMark(mark) => rule.mark = Some(*mark),
            _ => {}
        }
    }
    Some(rule)
}
