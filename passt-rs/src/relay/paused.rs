//! Listening sockets that are left alone for a while: somebody waits there, and no descriptor is left, not even for
//! turning him away. Watched on, they would never let us sleep.
//!
//! A timer brings them back, as what was short may have been the whole machine's, of which nothing tells us.

use std::os::fd::AsFd;
use std::time::Duration;

use crate::guest::Guest;
use crate::time::Instant;

use super::Relay;
use super::token::Token;

/// How long: a peer that waits hardly notices, and we sleep nearly always.
const PAUSE: Duration = Duration::from_millis(100);

/// Who is left alone, and until when.
#[derive(Debug, Default)]
pub(super) struct Paused {
    tokens: Vec<Token>,
    until: Option<Instant>,
}

impl Paused {
    /// How long until [`Relay::resume_paused`] has something to do.
    pub(super) fn due(&self, now: Instant) -> Option<Duration> {
        self.until.map(|until| until.since(now))
    }
}

impl<G: Guest> Relay<G> {
    /// Leaves a listening socket alone for [`PAUSE`].
    pub(super) fn pause(&mut self, token: Token) {
        if self.watch_listening(token, false) {
            self.paused.tokens.push(token);
            self.paused.until.get_or_insert(self.core.now + PAUSE);
        }
    }

    pub(super) fn resume_paused(&mut self) {
        if self.paused.until.is_some_and(|until| until <= self.core.now) {
            self.paused.until = None;
            for token in std::mem::take(&mut self.paused.tokens) {
                self.watch_listening(token, true);
            }
        }
    }

    /// Watches the socket of `token` or does not; `false`: it cannot be changed.
    fn watch_listening(&self, token: Token, watch: bool) -> bool {
        let fd = match token {
            Token::Listener(index) => self.listening.get(index as usize).map(|listener| listener.fd()),
            Token::Control => self.control.as_ref().map(AsFd::as_fd),
            Token::Guest | Token::Flow(_) | Token::ControlClient(_) | Token::Stop => None,
        };
        fd.is_some_and(|fd| self.core.epoll.change_input(fd, token.pack(), watch).is_ok())
    }
}
