//! What an epoll event belongs to, packed into 64 bits: a tag in the highest byte, an id below.

use crate::flow::FlowId;

/// The owner of a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    Guest,
    Flow(FlowId),
    Listener(u32),
    Control,
    ControlClient(u32),
    Stop,
}

const TAG_SHIFT: u32 = 56;
const GUEST: u64 = 1;
const FLOW: u64 = 2;
const LISTENER: u64 = 3;
const CONTROL: u64 = 4;
const CONTROL_CLIENT: u64 = 5;
const STOP: u64 = 6;

impl Token {
    pub(super) fn pack(self) -> u64 {
        let (tag, id) = match self {
            Self::Guest => (GUEST, 0),
            Self::Flow(id) => (FLOW, id.to_bits()),
            Self::Listener(index) => (LISTENER, u64::from(index)),
            Self::Control => (CONTROL, 0),
            Self::ControlClient(client) => (CONTROL_CLIENT, u64::from(client)),
            Self::Stop => (STOP, 0),
        };
        tag << TAG_SHIFT | id
    }

    pub(super) fn unpack(token: u64) -> Option<Self> {
        let id = token & !(0xff << TAG_SHIFT);
        let number = u32::try_from(id).unwrap_or(u32::MAX);
        match token >> TAG_SHIFT {
            GUEST => Some(Self::Guest),
            FLOW => Some(Self::Flow(FlowId::from_bits(id))),
            LISTENER => Some(Self::Listener(number)),
            CONTROL => Some(Self::Control),
            CONTROL_CLIENT => Some(Self::ControlClient(number)),
            STOP => Some(Self::Stop),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_packing() {
        let flow = Token::Flow(FlowId::from_bits(0x00ab_cdef_1234_5678));
        for token in
            [Token::Guest, flow, Token::Listener(7), Token::Control, Token::ControlClient(9), Token::Stop]
        {
            assert_eq!(Token::unpack(token.pack()), Some(token));
        }
    }
}
