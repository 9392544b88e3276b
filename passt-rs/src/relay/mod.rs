//! The only module that sees both ends: events in, frames and socket calls out.
//!
//! One turn of [`Relay::run`]: wait, then (1) take frames from the guest ([`from_guest`]), (2) note which host
//! sockets are ready ([`tcp`], [`listen`]), (3) fire timers, (4) settle every flow that something happened to,
//! once each: give the host's socket what waits, free what the guest acknowledged, send what the guest's
//! window allows, acknowledge. A burst thus costs one discard per flow and one acknowledgment, or up to three
//! while bytes are missing.
//!
//! When the loop ends, connections that did not end in order are reset ([`Relay::abandon`]).
//!
//! A relay is one worker: one thread, one epoll, one flow table, nothing shared.

mod from_guest;
mod connectionless;
mod listen;
mod patience;
mod paused;
mod forwarded;
mod tcp;
mod pump;
mod udp;
mod echo;
mod queue;
mod work;
mod cable;
mod datagrams;
mod icmp;
mod refusal;
mod run;
mod spill;
mod budget;
mod control;
mod core;
mod token;
#[cfg(test)]
mod tests;

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use crate::answer::Network;
use crate::capture::Capture;
use crate::control::Control;
use crate::flow::nat::Nat;
use crate::flow::{FlowId, Key, Table};
use crate::guest::{Guest, HEADERS_MAX, Link};
use crate::host::clock;
use crate::host::epoll::{Epoll, Ready};
use crate::host::outbound::Outbound;
use crate::ledger::Ledger;
use crate::wire::Mac;

pub use self::core::Limits;
use self::core::{Core, Fate};
pub use budget::Budget;
use echo::EchoFlow;
pub use listen::{Listening, Proto};
use patience::Patience;
use paused::Paused;
use tcp::TcpFlow;
use token::Token;
use udp::UdpFlow;

/// Everything a relay needs to know; small values, resolved before it starts.
#[derive(Debug)]
pub struct Settings {
    pub network: Network,
    pub nat: Nat,
    /// MTU of the cable in bytes of IP packet.
    pub mtu: u16,
    pub protocols: Protocols,
    /// Where sockets of ours leave the pod.
    pub outbound: Outbound,
    pub limits: Limits,
    /// The guest's address if it is known before it speaks.
    pub guest_mac: Option<Mac>,
    /// End when the guest's end of the cable goes away.
    pub one_off: bool,
    /// Key of the flow hash and of initial sequence numbers; must be random.
    pub secret: [u8; 16],
}

/// Which protocols are translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocols {
    pub tcp: bool,
    pub udp: bool,
    pub icmp: bool,
}

/// What is opened before privileges go, and handed over.
#[derive(Debug, Default)]
pub struct Opened {
    pub listening: Vec<Listening>,
    pub capture: Option<Capture>,
    pub control: Option<Control>,
    /// Where connections are written down, and those that a process before us left there.
    pub ledger: Option<(Ledger, Vec<Key>)>,
    /// Readable when the program is to end.
    pub stop: Option<OwnedFd>,
}

/// One flow of any kind.
#[expect(
    clippy::large_enum_variant,
    reason = "a box would be an allocation per connection, for the kind that is many"
)]
#[derive(Debug)]
enum Flow {
    Tcp(TcpFlow),
    Udp(UdpFlow),
    Echo(EchoFlow),
}

/// A whole translator over the transport `G`.
#[derive(Debug)]
pub struct Relay<G> {
    core: Core<G>,
    flows: Table<Flow>,
    listening: Vec<Listening>,
    control: Option<Control>,
    paused: Paused,
    /// Open for as long as we serve: readable means stop.
    _stop: Option<OwnedFd>,
    one_off: bool,
    patience: Patience,
    /// The guest's end may have more frames in our memory, where no descriptor tells of them.
    more_from_guest: bool,
}

impl<G: Guest> Relay<G> {
    /// Registers everything with a new epoll; nothing is served before [`Self::run`].
    pub fn new(guest: G, settings: Settings, opened: Opened) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        let one_off = settings.one_off;
        let flows = Table::new(settings.limits.flows, settings.secret);
        listen::limit_buffers(&opened.listening, settings.limits.sockets);
        let Opened { listening, capture, control, ledger, stop } = opened;
        let mut core = Core::new(guest, epoll, settings, capture);
        if let Some((ledger, lost)) = ledger {
            (core.ledger, core.lost) = (Some(ledger), lost);
        }
        core.cable.guest.attach(core.epoll.as_fd(), Token::Guest.pack())?;
        for (index, listener) in (0..).zip(&listening) {
            core.epoll.watch_input(listener.fd(), Token::Listener(index).pack())?;
        }
        if let Some(control) = &control {
            core.epoll.watch_input(control.as_fd(), Token::Control.pack())?;
        }
        if let Some(stop) = &stop {
            core.epoll.watch_input(stop.as_fd(), Token::Stop.pack())?;
        }
        Ok(Self {
            core,
            flows,
            listening,
            control,
            paused: Paused::default(),
            _stop: stop,
            one_off,
            patience: Patience::default(),
            more_from_guest: false,
        })
    }

    /// Serves until asked to stop, or the guest's end is gone for good; one-off, also until it is closed.
    pub fn run(&mut self) -> io::Result<()> {
        let served = self.serve();
        self.abandon();
        served
    }

    fn serve(&mut self) -> io::Result<()> {
        if self.on_link() == Turn::Stop {
            return Ok(());
        }
        loop {
            let timeout = self.next_timeout();
            if timeout.is_none_or(|timeout| timeout > Duration::ZERO) {
                self.core.cable.idle();
            }
            let counters = &self.core.cable.counters;
            self.patience.note(counters.from_guest_bytes + counters.to_guest_bytes);
            let count = self.patience.wait(&mut self.core.epoll, timeout)?;
            self.core.now = clock::now();
            for index in 0..count {
                let Some(ready) = self.core.epoll.event(index) else { break };
                if self.on_event(ready) == Turn::Stop {
                    return Ok(());
                }
            }
            if self.more_from_guest {
                self.frames_from_guest();
            }
            self.on_timers();
            self.settle();
            self.core.tell_of_lost();
            self.ask_about_flows();
            self.core.cable.guest.flush();
            self.core.cable.guest.report(&mut self.core.drops);
            self.core.resume_if_room();
            if self.on_link() == Turn::Stop {
                return Ok(());
            }
        }
    }

    /// Tells both ends of every connection that did not end in order. A socket that is merely closed sends a FIN,
    /// and its peer would take a stream for complete whose last bytes were still ours.
    fn abandon(&mut self) {
        let ids: Vec<_> = self.flows.iter().map(|(id, ..)| id).collect();
        for id in ids {
            if let Some((key, Flow::Tcp(flow))) = self.flows.remove(id) {
                flow.abandon(&mut self.core, &key);
            }
        }
        self.core.cable.guest.flush();
    }

    fn next_timeout(&self) -> Option<Duration> {
        if self.more_from_guest || !self.core.later.is_empty() {
            return Some(Duration::ZERO);
        }
        self.core
            .wheel
            .next(self.core.now)
            .into_iter()
            .chain(self.core.announcements_due())
            .chain(self.core.delayed_due())
            .chain(self.paused.due(self.core.now))
            .min()
    }

    fn on_event(&mut self, ready: Ready) -> Turn {
        match Token::unpack(ready.token) {
            Some(Token::Guest) => {
                if self.core.cable.guest.on_event() {
                    self.core.resume_blocked();
                }
                self.more_from_guest = true;
            }
            Some(Token::Flow(id)) => self.on_flow_ready(id, ready),
            Some(Token::Listener(index)) => self.on_listener(index),
            Some(Token::Control) => self.on_control_connection(),
            Some(Token::ControlClient(client)) => self.on_control_client(client),
            Some(Token::Stop) => return Turn::Stop,
            None => {}
        }
        Turn::Go
    }

    fn on_flow_ready(&mut self, id: FlowId, ready: Ready) {
        let Some((key, flow)) = self.flows.get_mut(id) else { return };
        let key = *key;
        let fate = match flow {
            Flow::Tcp(flow) => flow.on_ready(&mut self.core, id, &key, ready),
            Flow::Udp(flow) => flow.on_ready(&mut self.core, id, ready),
            Flow::Echo(flow) => flow.on_ready(&mut self.core, id, ready),
        };
        self.apply(id, fate);
    }

    fn on_timers(&mut self) {
        while let Some(index) = self.core.wheel.pop(self.core.now) {
            let Some(id) = self.flows.at_index(index) else { continue };
            let Some((key, flow)) = self.flows.get_mut(id) else { continue };
            let key = *key;
            let fate = match flow {
                Flow::Tcp(flow) => flow.on_timer(&mut self.core, id, &key),
                Flow::Udp(flow) => flow.on_timer(&mut self.core, id),
                Flow::Echo(flow) => flow.on_timer(&mut self.core, id),
            };
            self.apply(id, fate);
        }
        while let Some(id) = self.core.pop_delayed() {
            if let Some((_, Flow::Tcp(flow))) = self.flows.get_mut(id) {
                flow.stop_waiting(&mut self.core, id);
            }
        }
        self.core.announce_periodically();
        self.resume_paused();
    }

    /// Settles each flow that something happened to, and those whose turn was over before they were done.
    fn settle(&mut self) {
        // Two lists change places, as flows are listed again meanwhile; neither allocates once it has grown.
        std::mem::swap(&mut self.core.later, &mut self.core.settling);
        let mut work = std::mem::take(&mut self.core.settling);
        for id in work.drain(..) {
            let Some((key, flow)) = self.flows.get_mut(id) else { continue };
            let key = *key;
            let fate = match flow {
                Flow::Tcp(flow) => flow.settle(&mut self.core, id, &key),
                Flow::Udp(flow) => flow.settle(&mut self.core, id, &key),
                Flow::Echo(flow) => flow.settle(&mut self.core, id, &key),
            };
            self.apply(id, fate);
        }
        debug_assert!(self.core.settling.capacity() == 0, "a third list");
        self.core.settling = work;
    }

    fn apply(&mut self, id: FlowId, fate: Fate) {
        if fate == Fate::Keep {
            return;
        }
        self.core.wheel.cancel(id.index());
        if let Some((key, flow)) = self.flows.remove(id) {
            match flow {
                Flow::Tcp(flow) => {
                    if let Some(ledger) = &mut self.core.ledger {
                        ledger.forget(id.index());
                    }
                    flow.end(&mut self.core, &key, fate);
                }
                Flow::Udp(_) | Flow::Echo(_) => {
                    self.core.datagram_flows -= 1;
                    tracing::debug!("{} {} <-> {} ended", key.protocol.name(), key.guest, key.peer);
                }
            }
        }
    }

    /// Reacts to a guest that came or went.
    fn on_link(&mut self) -> Turn {
        match self.core.cable.guest.take_link() {
            Link::Unchanged => Turn::Go,
            Link::Up => {
                self.core.on_link_up();
                self.doubt_flows();
                self.core.cable.guest.flush();
                // A guest that is gone again is found out by sending; no event will come of it.
                self.on_link()
            }
            Link::Down => {
                tracing::info!("the guest's end of the cable was closed");
                if self.one_off { Turn::Stop } else { Turn::Go }
            }
            Link::Replaced => {
                tracing::info!("the guest's end of the cable was closed and connected again");
                if self.one_off {
                    return Turn::Stop;
                }
                self.core.on_link_up();
                self.doubt_flows();
                self.core.cable.guest.flush();
                // A guest that is gone again is found out by sending; no event will come of it.
                self.on_link()
            }
            Link::Gone => Turn::Stop,
        }
    }

    /// A guest came, maybe another than before: its connections are to be asked about. At once, as one that paused may
    /// have nothing to say; and once it speaks, as one that booted had no address before, and heard nothing.
    fn doubt_flows(&mut self) {
        (self.core.silent4, self.core.silent6) = (true, true);
        self.core.unconfirmed.clear();
        self.list_unconfirmed(|_| true);
    }

    /// The guest speaks from `address`.
    fn hear_from(&mut self, address: IpAddr) {
        let silent = if address.is_ipv4() { &mut self.core.silent4 } else { &mut self.core.silent6 };
        let link_local = matches!(address, IpAddr::V6(address) if address.is_unicast_link_local());
        if *silent && !address.is_unspecified() && !link_local {
            *silent = false;
            self.list_unconfirmed(|key| key.guest.address == address);
        }
    }

    /// This walks all flows: once, and once for each family, for each guest that comes.
    fn list_unconfirmed(&mut self, is_wanted: impl Fn(&Key) -> bool) {
        let wanted = self.flows.iter().filter(|(_, key, _)| is_wanted(key));
        self.core.unconfirmed.extend(wanted.map(|(id, ..)| id));
    }

    /// Sends a keepalive for each connection in doubt, as room permits. A guest that knows it acknowledges; another
    /// resets it, and so the peer hears of it, which may do nothing but wait.
    fn ask_about_flows(&mut self) {
        while !self.core.unconfirmed.is_empty() && self.core.heard {
            if self.core.cable.reserve(HEADERS_MAX, 0).is_none() {
                return; // There will be an event when there is room.
            }
            let Some(id) = self.core.unconfirmed.pop() else { return };
            if let Some((key, Flow::Tcp(flow))) = self.flows.get_mut(id) {
                let key = *key;
                flow.ask(&mut self.core, &key);
            }
        }
    }

    /// The flow of `key`, if there is one.
    fn find(&self, key: &Key) -> Option<FlowId> {
        self.flows.find(key)
    }
}

/// Whether the loop goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Go,
    Stop,
}
