//! What happens to frames as they come in: all of them out of another link (tc-u32(8), tc-mirred(8)).

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{
    TcAction, TcActionAttribute, TcActionMirrorOption, TcActionOption, TcActionType, TcAttribute,
    TcFilterU32Option, TcHandle, TcMessage, TcMirror, TcMirrorActionType, TcOption, TcU32Key, TcU32Selector,
    TcU32SelectorFlags,
};

use super::raw::{Attributes, Value, u32_at};
use super::{Netlink, NetlinkError};

impl Netlink {
    /// Adds the queueing discipline that filters of incoming frames hang on.
    ///
    /// # Errors
    ///
    /// `Exists` when the link has it, or `clsact`.
    pub fn add_ingress(&self, index: u32) -> Result<(), NetlinkError> {
        let mut message = tc_message(index, TcHandle::INGRESS)?;
        message.header.handle = INGRESS;
        message.attributes.push(TcAttribute::Kind("ingress".to_owned()));
        let what = format_args!("add ingress queueing to link {index}");
        self.change_with(RouteNetlinkMessage::NewQueueDiscipline(message), NLM_F_CREATE | NLM_F_EXCL, what)
    }

    /// Whether filters of incoming frames can be added: it has `ingress`, or `clsact`.
    pub fn has_ingress(&self, index: u32) -> Result<bool, NetlinkError> {
        Ok(self.discipline(index, TcHandle::INGRESS)?.is_some())
    }

    /// Whether any filter of incoming frames is there, whoever added it.
    pub fn has_filters(&self, index: u32) -> Result<bool, NetlinkError> {
        Ok(!self.filters(index)?.is_empty())
    }

    /// Removes it with all its filters; `clsact`, which is not of our making, stays. False: there was none, or the link
    /// is gone.
    pub fn delete_ingress(&self, index: u32) -> Result<bool, NetlinkError> {
        let mut message = tc_message(index, TcHandle::INGRESS)?;
        message.attributes.push(TcAttribute::Kind("ingress".to_owned()));
        let what = format_args!("delete ingress queueing of link {index}");
        removed(self.change_with(RouteNetlinkMessage::DelQueueDiscipline(message), 0, what))
    }

    /// Sends every frame that comes in by `from` out of `to`, whatever its protocol. The link must have the ingress
    /// discipline. A filter is asked before those that were added before it.
    pub fn redirect_all(&self, from: u32, to: u32) -> Result<(), NetlinkError> {
        let mut message = tc_message(from, INCOMING)?;
        // The kernel chooses a priority that no other filter has.
        message.header.info = EVERY_PROTOCOL;
        message.attributes.push(TcAttribute::Kind("u32".to_owned()));
        message.attributes.push(TcAttribute::Options(vec![
            TcOption::U32(TcFilterU32Option::Selector(match_all())),
            TcOption::U32(TcFilterU32Option::Action(vec![redirect(to)])),
        ]));
        let what = format_args!("redirect what comes in by link {from} to link {to}");
        self.change_with(RouteNetlinkMessage::NewTrafficFilter(message), NLM_F_CREATE | NLM_F_EXCL, what)
    }

    /// Removes every redirection of all that comes in by `from` to `to`, and no other filter. False: there was none.
    pub fn delete_redirect(&self, from: u32, to: u32) -> Result<bool, NetlinkError> {
        let mut any = false;
        for redirect in self.redirections(from)?.into_iter().filter(|redirect| redirect.to == to) {
            let mut message = tc_message(from, INCOMING)?;
            message.header.info = redirect.priority_and_protocol;
            message.attributes.push(TcAttribute::Kind("u32".to_owned()));
            let what = format_args!("delete redirection of link {from} to link {to}");
            any |= removed(self.change_with(RouteNetlinkMessage::DelTrafficFilter(message), 0, what))?;
        }
        Ok(any)
    }

    /// Indices of the links that all incoming frames are redirected to, in the order the filters are asked.
    pub fn redirects(&self, index: u32) -> Result<Vec<u32>, NetlinkError> {
        Ok(self.redirections(index)?.into_iter().map(|redirect| redirect.to).collect())
    }

    fn redirections(&self, index: u32) -> Result<Vec<Redirection>, NetlinkError> {
        Ok(self.filters(index)?.iter().filter_map(|filter| Redirection::read(filter)).collect())
    }

    /// The messages of all filters of incoming frames, in the order they are asked.
    fn filters(&self, index: u32) -> Result<Vec<Vec<u8>>, NetlinkError> {
        let message = RouteNetlinkMessage::GetTrafficFilter(tc_message(index, INCOMING)?);
        match self.dump(message, format_args!("list filters of link {index}")) {
            Ok(answers) => Ok(answers
                .into_iter()
                .filter(|answer| answer.kind == libc::RTM_NEWTFILTER)
                .map(|answer| answer.payload)
                .collect()),
            Err(NetlinkError::NotFound { .. }) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// The message of the queueing discipline at a place of a link.
    ///
    /// They are listed, all of them: asked for one, the kernel tells everybody who listens for changes.
    pub(super) fn discipline(&self, index: u32, parent: TcHandle) -> Result<Option<Vec<u8>>, NetlinkError> {
        let message = RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default());
        let answers = self.dump(message, format_args!("list queueing disciplines"))?;
        // struct tcmsg: family and padding, index, handle, parent, info.
        let place = (Some(index), Some(u32::from(parent)));
        Ok(answers
            .into_iter()
            .filter(|answer| answer.kind == libc::RTM_NEWQDISC)
            .map(|answer| answer.payload)
            .find(|payload| (u32_at(payload, 4), u32_at(payload, 12)) == place))
    }
}

/// The header has it signed.
pub(super) fn tc_message(index: u32, parent: TcHandle) -> Result<TcMessage, NetlinkError> {
    let mut message = TcMessage::default();
    message.header.index = i32::try_from(index)
        .map_err(|_| NetlinkError::of(format!("use link {index}"), libc::ENODEV, String::new()))?;
    message.header.parent = parent;
    Ok(message)
}

/// The kernel says EINVAL, too, of a link without the discipline to be removed.
pub(super) fn removed(result: Result<(), NetlinkError>) -> Result<bool, NetlinkError> {
    match result {
        Ok(()) => Ok(true),
        Err(NetlinkError::NotFound { .. } | NetlinkError::Refused { errno: libc::EINVAL, .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// One key, of which no bit counts.
fn match_all() -> TcU32Selector {
    let mut selector = TcU32Selector::default();
    selector.flags = TcU32SelectorFlags::Terminal;
    selector.nkeys = 1;
    selector.keys = vec![TcU32Key::default()];
    selector
}

fn redirect(to: u32) -> TcAction {
    let mut mirror = TcMirror::default();
    mirror.generic.action = TcActionType::Stolen;
    mirror.eaction = TcMirrorActionType::EgressRedir;
    mirror.ifindex = to;
    let mut action = TcAction::default();
    action.tab = 1;
    action.attributes = vec![
        TcActionAttribute::Kind("mirred".to_owned()),
        TcActionAttribute::Options(vec![TcActionOption::Mirror(TcActionMirrorOption::Parms(mirror))]),
    ];
    action
}

/// A filter that sends every frame elsewhere.
struct Redirection {
    /// As in `struct tcmsg`: the priority, and below it the protocol in network byte order.
    priority_and_protocol: u32,
    to: u32,
}

impl Redirection {
    /// None for a filter that chooses, or does something else.
    fn read(payload: &[u8]) -> Option<Self> {
        let priority_and_protocol = u32_at(payload, 16)?;
        let attributes = Attributes::after(payload, TCMSG);
        if priority_and_protocol & 0xffff != EVERY_PROTOCOL
            || attributes.find(libc::TCA_KIND)?.text() != "u32"
        {
            return None;
        }
        let options = attributes.find(libc::TCA_OPTIONS)?.nested();
        // struct tc_u32_sel: number of keys in byte 2, keys from byte 16, of 16 bytes, mask first.
        let selector = options.find(TCA_U32_SEL)?.0;
        let keys = usize::from(*selector.get(2)?);
        let chooses = (0..keys).any(|key| u32_at(selector, 16 + 16 * key) != Some(0));
        if chooses {
            return None;
        }
        // The first action decides; a redirected frame does not come to a second.
        let (_, action) = options.find(TCA_U32_ACT)?.nested().next()?;
        let action = action.nested();
        if action.find(TCA_ACT_KIND)?.text() != "mirred" {
            return None;
        }
        let parameters = action.find(TCA_ACT_OPTIONS).map(Value::nested)?.find(TCA_MIRRED_PARMS)?.0;
        // struct tc_mirred: five numbers that every action has, what to do, index of the link.
        let to = (u32_at(parameters, 20)? == TCA_EGRESS_REDIR).then(|| u32_at(parameters, 24)).flatten()?;
        Some(Self { priority_and_protocol, to })
    }
}

/// Handle of the ingress discipline, as everybody calls it.
const INGRESS: TcHandle = TcHandle { major: 0xffff, minor: 0 };

/// Where filters of incoming frames hang, with `ingress` as with `clsact` (`TC_H_MIN_INGRESS`).
const INCOMING: TcHandle = TcHandle { major: 0xffff, minor: 0xfff2 };

/// `ETH_P_ALL` in network byte order, without a priority.
const EVERY_PROTOCOL: u32 = 3_u16.to_be() as u32;

/// Bytes of `struct tcmsg`.
pub(super) const TCMSG: usize = 20;

const TCA_U32_SEL: u16 = 5;
const TCA_U32_ACT: u16 = 7;
const TCA_ACT_KIND: u16 = 1;
const TCA_ACT_OPTIONS: u16 = 2;
const TCA_MIRRED_PARMS: u16 = 2;
const TCA_EGRESS_REDIR: u32 = 1;
