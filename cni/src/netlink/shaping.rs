//! How fast frames leave a link: a token bucket (tc-tbf(8)).

use std::num::NonZeroU64;
use std::time::Duration;

use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcOption};

use super::raw::{Attributes, Value, u32_at};
use super::traffic::{TCMSG, removed, tc_message};
use super::{Netlink, NetlinkError};

/// A token bucket to be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewTbf {
    /// Bytes per second. The kernel would take zero, and let nothing pass.
    pub rate: NonZeroU64,
    /// Bytes that may leave at once; it must not be smaller than a frame, and the time they take at `rate` must fit 32
    /// bits of 64 ns: 274 s.
    pub burst: u32,
    /// How long a frame may wait.
    pub latency: Duration,
}

/// A token bucket as the kernel has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tbf {
    /// Bytes per second.
    pub rate: u64,
    /// Bytes; the kernel keeps the time they take, in units of 64 ns, so what comes back may be a little less than
    /// what was set.
    pub burst: u64,
    /// Bytes that may wait.
    pub limit: u32,
}

impl Netlink {
    /// Sets the queueing discipline of a link to a token bucket, whatever it was before.
    pub fn set_tbf(&self, index: u32, new: NewTbf) -> Result<(), NetlinkError> {
        let mut message = tc_message(index, TcHandle::ROOT)?;
        message.attributes.push(TcAttribute::Kind("tbf".to_owned()));
        message
            .attributes
            .push(TcAttribute::Options(options(new).into_iter().map(TcOption::Other).collect()));
        let what = format_args!("limit link {index} to {} bytes per second", new.rate);
        self.change_with(RouteNetlinkMessage::NewQueueDiscipline(message), NLM_F_CREATE | NLM_F_REPLACE, what)
    }

    /// The token bucket of a link, if that is its queueing discipline.
    pub fn tbf(&self, index: u32) -> Result<Option<Tbf>, NetlinkError> {
        Ok(self.discipline(index, TcHandle::ROOT)?.and_then(|payload| read(&payload)))
    }

    /// What somebody set as a link's queueing discipline; None for the kernel's own choice, which has no handle.
    pub fn root_discipline(&self, index: u32) -> Result<Option<String>, NetlinkError> {
        let Some(payload) = self.discipline(index, TcHandle::ROOT)? else { return Ok(None) };
        let chosen = u32_at(&payload, HANDLE).is_some_and(|handle| handle != 0);
        let kind = Attributes::after(&payload, TCMSG).find(libc::TCA_KIND).map(Value::text);
        Ok(kind.filter(|_| chosen))
    }

    /// Gives a link the kernel's own queueing back. False: it has it, or is gone.
    pub fn delete_root(&self, index: u32) -> Result<bool, NetlinkError> {
        let message = tc_message(index, TcHandle::ROOT)?;
        let what = format_args!("delete queueing of link {index}");
        removed(self.change_with(RouteNetlinkMessage::DelQueueDiscipline(message), 0, what))
    }
}

fn options(new: NewTbf) -> Vec<DefaultNla> {
    let bytes_per_second = new.rate.get();
    let waiting = u128::from(bytes_per_second) * new.latency.as_nanos() / NANOSECONDS;
    let limit = u32::try_from(waiting).unwrap_or(u32::MAX).saturating_add(new.burst);
    let rate = u32::try_from(bytes_per_second).unwrap_or(u32::MAX);
    // struct tc_tbf_qopt: rate and peak rate (struct tc_ratespec), limit, buffer, mtu. In the rate: cell_log, linklayer,
    // overhead, cell_align, mpu, rate. Ethernet as link layer tells the kernel that there is no table to look up.
    let mut parameters = Vec::with_capacity(36);
    parameters.extend([0, TC_LINKLAYER_ETHERNET, 0, 0, 0, 0, 0, 0]);
    parameters.extend(rate.to_ne_bytes());
    parameters.extend([0; 12]);
    parameters.extend(limit.to_ne_bytes());
    parameters.extend(ticks(new.burst, new.rate).to_ne_bytes());
    parameters.extend([0; 4]);
    let mut options = vec![DefaultNla::new(TCA_TBF_PARMS, parameters)];
    if bytes_per_second > u64::from(u32::MAX) {
        options.push(DefaultNla::new(TCA_TBF_RATE64, bytes_per_second.to_ne_bytes().to_vec()));
    }
    // In bytes, and so exact while the kernel decides what fits; the parameter is what it shows.
    options.push(DefaultNla::new(TCA_TBF_BURST, new.burst.to_ne_bytes().to_vec()));
    options
}

/// The time `bytes` take, in the kernel's unit for it (include/net/pkt_sched.h, `PSCHED_SHIFT`).
fn ticks(bytes: u32, rate: NonZeroU64) -> u32 {
    let ticks = u64::from(bytes) * (1_000_000_000 / TICK_NANOSECONDS) / rate;
    u32::try_from(ticks).unwrap_or(u32::MAX)
}

fn read(payload: &[u8]) -> Option<Tbf> {
    let attributes = Attributes::after(payload, TCMSG);
    if attributes.find(libc::TCA_KIND)?.text() != "tbf" {
        return None;
    }
    let options = attributes.find(libc::TCA_OPTIONS)?.nested();
    let parameters = options.find(TCA_TBF_PARMS)?.0;
    let rate =
        options.find(TCA_TBF_RATE64).and_then(Value::u64).or_else(|| u32_at(parameters, 8).map(u64::from))?;
    let ticks = u128::from(u32_at(parameters, 28)?);
    let burst = (ticks * u128::from(TICK_NANOSECONDS) * u128::from(rate)).div_ceil(NANOSECONDS);
    Some(Tbf { rate, burst: u64::try_from(burst).ok()?, limit: u32_at(parameters, 24)? })
}

/// Of `tcm_handle` in `struct tcmsg`.
const HANDLE: usize = 8;

const NANOSECONDS: u128 = 1_000_000_000;
const TICK_NANOSECONDS: u64 = 64;

/// include/uapi/linux/pkt_sched.h.
const TC_LINKLAYER_ETHERNET: u8 = 1;
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_BURST: u16 = 6;
