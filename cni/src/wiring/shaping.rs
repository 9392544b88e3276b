//! Limits of an attachment's bandwidth, each way: what the reference `bandwidth` plugin does for a container's veth, for
//! taps too. It must never drop what fits the limit, nor limit what is not the attachment's.
//!
//! A token bucket (tc-tbf(8)) holds frames back where they leave a device. So each way needs a device of the attachment
//! that its frames leave by, out of reach of whoever is limited:
//!
//! | attachment | to the pod | from the pod |
//! |---|---|---|
//! | a tap joined or routed to a NIC | the tap | the NIC |
//! | a veth for a container | the node's end | `ifb` behind the node's end |
//! | a macvlan, macvtap or ipvlan | `ifb` behind it, in the pod | itself |
//!
//! A tap has no other end on the node, which is why the reference plugin finds nothing to limit there; but `pod_tap`'s
//! redirection puts each frame in the queue of the device it goes to, as if the pod had sent it. What QEMU writes to a
//! macvtap leaves through the macvtap's own queue. A veth's end on the node only receives what a container sends: that is
//! redirected to a device made for it (`ifb`), which gives each frame back to where it was taken from when its turn comes.
//!
//! Rate, burst and the 25 ms that a frame may wait are set as the reference plugin sets them, so numbers that were found
//! good stay good. But a burst that no frame of the MTU fits into is refused: there, nothing but small frames would pass.

use std::num::NonZeroU64;
use std::time::Duration;

use super::pod_interface::sysctl_if_there;
use super::site::{Call, Site, View, changed, existing, in_pod, made_link, same};
use crate::journal::Step;
use crate::namespace::Namespace;
use crate::netlink::{Change, Kind, Link, Netlink, NewLink, NewTbf, existing_ok};
use crate::protocol::{Bandwidth, CniError};

/// How long a frame may wait; the reference plugin's.
const LATENCY: Duration = Duration::from_millis(25);

/// What is before an Ethernet frame's payload, with a VLAN's tag.
const HEADER_BYTES: u64 = 18;

const BITS: u64 = 8;

/// The longest time of a burst that the kernel can tell, in units of a burst's bytes by bytes a second: 32 bits of 64 ns.
const LONGEST_BURST_SECONDS: u64 = 274;

/// Which devices an attachment's frames leave by.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place<'a> {
    /// A tap of the pod and the NIC there that it is joined or routed to.
    Tap {
        tap: &'a Link,
        nic: &'a Link,
        /// The NIC was made for this attachment.
        ours: bool,
    },
    /// The node's end of a veth pair, whose other end a container uses.
    NodeEnd(&'a Link),
    /// A NIC of the pod that is a part of a link of the node.
    PodNic(&'a Link),
}

impl<'a> Place<'a> {
    /// A veth pair's: the tap beside its end in the pod, if it has one.
    pub(super) fn veth(node_end: &'a Link, inside: &'a Link, tap: Option<&'a Link>) -> Self {
        tap.map_or(Self::NodeEnd(node_end), |tap| Self::Tap { tap, nic: inside, ours: true })
    }

    /// The smallest MTU and so the smallest burst, in bytes, that each of its frames fits into.
    fn frame(&self) -> u64 {
        let (Self::Tap { nic: link, .. } | Self::NodeEnd(link) | Self::PodNic(link)) = self;
        u64::from(link.mtu) + HEADER_BYTES
    }
}

/// Sets the limits that the configuration or the runtime asks for, if any.
///
/// # Errors
/// Code 7 with key and value; also where another has shaped the pod's NIC already.
pub(super) fn limit(call: &Call, site: &mut Site<'_>, place: Place<'_>) -> Result<(), CniError> {
    let Some(limits) = Limits::read(call)? else { return Ok(()) };
    limits.fit(place.frame())?;
    match place {
        Place::Tap { tap, nic, ours } => {
            if let Some(bucket) = limits.to_pod {
                site.inside.set_tbf(tap.index, bucket)?;
            }
            if let Some(bucket) = limits.from_pod {
                if !ours {
                    refuse_shaped(site, nic)?;
                    site.journal.will(Step::PodShaper { name: nic.name.clone() })?;
                }
                site.inside.set_tbf(nic.index, bucket)?;
            }
        }
        Place::NodeEnd(end) => {
            if let Some(bucket) = limits.to_pod {
                site.host.set_tbf(end.index, bucket)?;
            }
            if let Some(bucket) = limits.from_pod {
                site.journal.will(Step::HostShaper { name: call.attachment.shaper() })?;
                delay(call, site.host, None, end, bucket)?;
            }
        }
        Place::PodNic(nic) => {
            if let Some(bucket) = limits.from_pod {
                site.inside.set_tbf(nic.index, bucket)?;
            }
            if let Some(bucket) = limits.to_pod {
                site.journal.will(Step::PodLink { name: call.attachment.shaper() })?;
                delay(call, site.inside, Some(site.pod), nic, bucket)?;
            }
        }
    }
    Ok(())
}

/// CHECK of [`limit`].
pub(super) fn check(call: &Call, view: &View<'_>, place: Place<'_>) -> Result<(), CniError> {
    let Some(limits) = Limits::read(call)? else { return Ok(()) };
    match place {
        Place::Tap { tap, nic, .. } => {
            limited(view.inside, tap, limits.to_pod)?;
            limited(view.inside, nic, limits.from_pod)
        }
        Place::NodeEnd(end) => {
            limited(view.host, end, limits.to_pod)?;
            delayed(call, view.host, end, limits.from_pod)
        }
        Place::PodNic(nic) => {
            limited(view.inside, nic, limits.from_pod)?;
            delayed(call, view.inside, nic, limits.to_pod)
        }
    }
}

/// For a mode that has nothing to limit.
pub(super) fn refuse(bandwidth: Option<Bandwidth>, why: &str) -> Result<(), CniError> {
    let Some(bandwidth) = bandwidth else { return Ok(()) };
    let (key, rate) = if bandwidth.ingress_rate > 0 {
        ("ingressRate", bandwidth.ingress_rate)
    } else {
        ("egressRate", bandwidth.egress_rate)
    };
    Err(CniError::config(key, rate, why))
}

/// Both ways, as the kernel takes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Limits {
    to_pod: Option<NewTbf>,
    from_pod: Option<NewTbf>,
}

impl Limits {
    fn read(call: &Call) -> Result<Option<Self>, CniError> {
        Ok(call.config.bandwidth()?.map(|asked| Self {
            to_pod: bucket(asked.ingress_rate, asked.ingress_burst),
            from_pod: bucket(asked.egress_rate, asked.egress_burst),
        }))
    }

    fn fit(&self, frame: u64) -> Result<(), CniError> {
        for (key, bucket) in [("ingressBurst", self.to_pod), ("egressBurst", self.from_pod)] {
            if let Some(bucket) = bucket.filter(|bucket| u64::from(bucket.burst) < frame) {
                let least = frame * BITS;
                let why =
                    format!("a frame of the link's MTU needs {least} bits; without them it would never pass");
                return Err(CniError::config(key, u64::from(bucket.burst) * BITS, &why));
            }
        }
        Ok(())
    }
}

/// Of bits a second and bits, rounded down to bytes as the reference plugin does.
fn bucket(rate: u64, burst: u64) -> Option<NewTbf> {
    let burst = u32::try_from(burst / BITS).unwrap_or(u32::MAX);
    NonZeroU64::new(rate / BITS).map(|rate| NewTbf { rate, burst, latency: LATENCY })
}

/// Whoever owns the NIC may have limited it on purpose.
fn refuse_shaped(site: &Site<'_>, nic: &Link) -> Result<(), CniError> {
    let Some(kind) = site.inside.root_discipline(nic.index)? else { return Ok(()) };
    let why = format!("the NIC has a queueing discipline ({kind}) already, which a limit would replace");
    Err(CniError::config("uplink", &nic.name, &why))
}

/// Has what `link` receives wait in a device made for it, in the same namespace (`pod`; the node's where `None`).
fn delay(
    call: &Call,
    netlink: &Netlink,
    pod: Option<&Namespace>,
    link: &Link,
    bucket: NewTbf,
) -> Result<(), CniError> {
    let name = call.attachment.shaper();
    // One that is there is of this very attachment, whose journal was lost.
    netlink.delete(&name)?;
    netlink.create(&NewLink { mtu: Some(link.mtu), ..NewLink::new(&name, Kind::Ifb) })?;
    let mute = || sysctl_if_there(&format!("net/ipv6/conf/{name}/disable_ipv6"), "1");
    pod.map_or_else(mute, |pod| in_pod(pod, mute)?)?;
    let shaper = made_link(netlink, &name)?;
    netlink.set_tbf(shaper.index, bucket)?;
    let up = Change { up: Some(true), alias: Some(call.alias()), ..Change::default() };
    netlink.change(shaper.index, &up)?;
    existing_ok(netlink.add_ingress(link.index))?;
    Ok(netlink.redirect_all(link.index, shaper.index)?)
}

fn delayed(call: &Call, netlink: &Netlink, link: &Link, bucket: Option<NewTbf>) -> Result<(), CniError> {
    if bucket.is_none() {
        return Ok(());
    }
    let shaper = existing(netlink, &call.attachment.shaper(), &format!("behind {}", link.name))?;
    same(&format!("whether {} is up", shaper.name), &shaper.up, &true)?;
    if netlink.redirects(link.index)? != [shaper.index] {
        return Err(changed(format!("frames of {} no longer go to {}", link.name, shaper.name)));
    }
    limited(netlink, &shaper, bucket)
}

fn limited(netlink: &Netlink, link: &Link, bucket: Option<NewTbf>) -> Result<(), CniError> {
    let Some(bucket) = bucket else { return Ok(()) };
    let name = &link.name;
    let is = netlink.tbf(link.index)?.ok_or_else(|| changed(format!("{name} no longer has a limit")))?;
    same(&format!("{name}'s rate in bytes a second"), &is.rate, &bucket.rate.get())?;
    if is_burst(is.burst, bucket) {
        return Ok(());
    }
    Err(changed(format!("{name}'s burst is {} bytes, was made {}", is.burst, bucket.burst)))
}

/// The kernel keeps a burst as time and tells it in units of 64 ns, so it comes back a little off; and where it takes
/// longer than 32 bits of them, as nothing that means anything.
fn is_burst(is: u64, bucket: NewTbf) -> bool {
    let (rate, burst) = (bucket.rate.get(), u64::from(bucket.burst));
    if burst / rate >= LONGEST_BURST_SECONDS {
        return true;
    }
    let two_units = u128::from(rate) * 128 / 1_000_000_000;
    let rounding = u128::from(burst / 1_000_000) + 2;
    u128::from(is.abs_diff(burst)) <= two_units + rounding
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(rate: u64, burst: u32) -> NewTbf {
        NewTbf { rate: NonZeroU64::new(rate).unwrap(), burst, latency: LATENCY }
    }

    #[test]
    fn bits_become_bytes_and_zero_is_no_limit() {
        assert_eq!(bucket(20_000_007, 160_007), Some(of(2_500_000, 20_000)));
        assert_eq!(bucket(0, 0), None);
        assert_eq!(bucket(8, u64::from(u32::MAX) * 8), Some(of(1, u32::MAX)));
    }

    #[test]
    fn burst_must_hold_a_frame() {
        let limits = |burst| Limits { to_pod: None, from_pod: Some(of(1_000, burst)) };
        assert_eq!(limits(1518).fit(1518), Ok(()));
        let error = limits(1517).fit(1518).unwrap_err();
        assert_eq!(error.code, 7);
        assert!(
            error.to_string().contains("egressBurst 12136: a frame of the link's MTU needs 12144"),
            "{error}"
        );
    }

    #[test]
    fn burst_is_compared_as_exactly_as_the_kernel_tells_it() {
        for (is, rate, burst, expected) in [
            (20_000, 2_500_000, 20_000, true),
            (19_999, 2_500_000, 20_000, true),
            (19_990, 2_500_000, 20_000, false),
            (21_000, 2_500_000, 20_000, false),
            // 10 Gbit/s: 80 bytes in each unit.
            (1_000_080, 1_250_000_000, 1_000_000, true),
            (1_001_000, 1_250_000_000, 1_000_000, false),
            // 268 MB at 1 Mbit/s take 2147 s.
            (7, 125_000, 268_435_455, true),
        ] {
            assert_eq!(is_burst(is, of(rate, burst)), expected, "{is} of {burst} at {rate}");
        }
    }

    #[test]
    fn mode_without_traffic_names_what_it_refuses() {
        let asked = Bandwidth { egress_rate: 8_000, egress_burst: 80_000, ..Bandwidth::default() };
        let error = refuse(Some(asked), "it has no traffic").unwrap_err();
        assert_eq!(
            (error.code, error.to_string().contains("egressRate 8000: it has no traffic")),
            (7, true),
            "{error}"
        );
        assert_eq!(refuse(None, ""), Ok(()));
    }
}
