//! Answers of the control socket, gathered from the relay's parts.

use serde::Serialize;

use crate::control::{Accepted, Request};
use crate::guest::Guest;
use crate::stats::{FlowReport, Snapshot, drops_by_name};

use super::token::Token;
use super::{Flow, Relay};

#[derive(Serialize)]
struct Flows {
    flows: Vec<FlowReport>,
}

#[derive(Serialize)]
struct Failure<'a> {
    error: &'a str,
}

impl<G: Guest> Relay<G> {
    pub(super) fn on_control_connection(&mut self) {
        let Some(control) = &mut self.control else { return };
        match control.accept() {
            Accepted::Client { number, fd } => {
                if let Err(error) = self.core.epoll.watch_edges(fd, Token::ControlClient(number).pack()) {
                    tracing::warn!("cannot serve a control client: {error}");
                    control.forget(number);
                }
            }
            Accepted::Nobody => {}
            Accepted::Exhausted => self.pause(Token::Control),
        }
    }

    pub(super) fn on_control_client(&mut self, client: u32) {
        let requests = self.control.as_mut().map(|control| control.on_ready(client)).unwrap_or_default();
        for request in requests {
            match request {
                Request::Stats => {
                    let snapshot = self.snapshot();
                    self.reply(client, &snapshot);
                }
                Request::Flows => {
                    let flows = self.flow_reports();
                    self.reply(client, &Flows { flows });
                }
                Request::Unknown(error) => self.reply(client, &Failure { error: &error }),
            }
        }
    }

    fn reply(&mut self, client: u32, answer: &impl Serialize) {
        if let Some(control) = &mut self.control {
            control.reply(client, answer);
        }
    }

    fn snapshot(&self) -> Snapshot {
        let core = &self.core;
        Snapshot {
            cable: core.cable.counters,
            tcp: core.tcp,
            udp: core.udp,
            echo: core.echo,
            datagram: core.datagram,
            flows: self.flows.len(),
            flows_limit: core.settings.limits.flows,
            datagram_flows: core.datagram_flows,
            datagram_flows_limit: core.settings.limits.datagram_flows,
            half_open: core.half_open,
            half_open_limit: core.settings.limits.half_open,
            reassembly_bytes: core.reassembly.used_bytes(),
            reassembly_limit_bytes: core.settings.limits.reassembly_bytes,
            waiting_for_guest: core.blocked_len(),
            spill_bytes: core.spill.used_bytes(),
            spill_limit_bytes: core.settings.limits.spill_bytes,
            retained_bytes: core.retained_bytes,
            retained_limit_bytes: core.settings.limits.retained_bytes,
            drops: drops_by_name(&core.drops),
        }
    }

    fn flow_reports(&self) -> Vec<FlowReport> {
        let reports = self.flows.iter().map(|(_, key, flow)| match flow {
            Flow::Tcp(flow) => flow.report(key, self.core.now),
            Flow::Udp(flow) => flow.report(key, self.core.now),
            Flow::Echo(flow) => flow.report(key, self.core.now),
        });
        reports.collect()
    }
}
