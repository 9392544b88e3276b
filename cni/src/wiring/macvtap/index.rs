//! The index of a macvtap that is made in the pod, after which its device node is called. It must never be one that the
//! kernel hands out by itself, in the pod or on the node.
//!
//! The kernel counts from 1 in each namespace, and a link that was made with an index of its own does not carry the count
//! along. Ours are drawn at random from the upper half of what an index can be, 2^30 to 2^31 - 1. By counting, a node
//! comes there after 2^30 links; at a link in 10 ms, and few are made so fast, after four months. Two pods draw the same one
//! of 2^30 hardly ever; if they do, whoever comes second finds the device node, before its link is made or after
//! (`device_node::provide`). To the kernel, libvirt and KubeVirt an index is an `int`, and positive.

use rustix::rand::{GetRandomFlags, getrandom};

use super::device_node;
use crate::protocol::{CniError, Code};
use crate::wiring::site::Site;

/// The lower half is the kernel's.
const FIRST: u32 = 1 << 30;

/// More than one is drawn once in many years. Where even so many do not help, something else is wrong.
const ATTEMPTS: usize = 16;

/// In debug builds: what is drawn first, so that tests can show what happens where it is taken.
const FIRST_DRAWN: &str = "SLUICE_CNI_MACVTAP_INDEX";

/// One that no link of the pod or of the node has, and no device node is called after.
///
/// # Errors
///
/// Code 11, where none of those drawn was free.
pub(super) fn choose(site: &Site<'_>) -> Result<u32, CniError> {
    let wanted = || std::env::var(FIRST_DRAWN).ok().and_then(|text| text.parse().ok());
    let mut wanted = if cfg!(debug_assertions) { wanted() } else { None };
    let is_free = |index| {
        Ok(site.host.link_at(index)?.is_none()
            && site.inside.link_at(index)?.is_none()
            && device_node::is_free(index)?)
    };
    first_free(|| wanted.take().map_or_else(draw, Ok), is_free)
}

fn first_free(
    mut draw: impl FnMut() -> Result<u32, CniError>,
    is_free: impl Fn(u32) -> Result<bool, CniError>,
) -> Result<u32, CniError> {
    for _ in 0..ATTEMPTS {
        let index = draw()?;
        if is_free(index)? {
            return Ok(index);
        }
    }
    let why = format!("each of {ATTEMPTS} indices drawn for a macvtap is another link's");
    Err(CniError::new(Code::TryAgainLater, why))
}

fn draw() -> Result<u32, CniError> {
    let mut bytes = [0; 4];
    // So few come at once or not at all (getrandom(2)).
    getrandom(&mut bytes, GetRandomFlags::empty())
        .map_err(|error| CniError::io("drawing an index for a macvtap", error))?;
    Ok(FIRST | (u32::from_ne_bytes(bytes) & (FIRST - 1)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn indices_are_of_the_upper_half_and_seldom_the_same() {
        let drawn: BTreeSet<u32> = (0..1000).map(|_| draw().unwrap()).collect();
        assert!(drawn.iter().all(|index| (FIRST..1 << 31).contains(index)), "{drawn:?}");
        assert!(drawn.len() > 990, "{} of 1000 differ", drawn.len());
    }

    #[test]
    fn what_is_taken_is_passed_over() {
        let mut all = FIRST..;
        let index = first_free(|| Ok(all.next().unwrap()), |index| Ok(index > FIRST + 2)).unwrap();
        assert_eq!(index, FIRST + 3);
    }

    #[test]
    fn search_ends_where_all_is_taken() {
        let mut drawn = 0;
        let draw = || {
            drawn += 1;
            Ok(FIRST)
        };
        let error = first_free(draw, |_| Ok(false)).unwrap_err();
        assert_eq!((error.code, drawn), (Code::TryAgainLater.number(), ATTEMPTS));
    }
}
