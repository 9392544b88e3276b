//! What makes a namespace a router, and the arithmetic of gateways. It must never switch forwarding off: others may rely on it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::protocol::CniError;
use crate::sysctl::{self, SysctlError};

/// Lets the namespace that the thread is in forward, if it does not yet.
pub(super) fn forward(family: IpAddr) -> Result<(), CniError> {
    let path = match family {
        IpAddr::V4(_) => "net/ipv4/ip_forward",
        IpAddr::V6(_) => "net/ipv6/conf/all/forwarding",
    };
    if sysctl::read(path)?.trim() == "1" {
        return Ok(());
    }
    if family.is_ipv6() {
        keep_listening_to_routers()?;
    }
    Ok(sysctl::write(path, "1")?)
}

/// A link whose `accept_ra` is 1 takes no router advertisements once its namespace forwards, and loses the default route it
/// had of one; with 2 it goes on (Documentation/networking/ip-sysctl.rst).
fn keep_listening_to_routers() -> Result<(), CniError> {
    for link in sysctl::list("net/ipv6/conf")? {
        // No links but settings, the one without effect, the other what new links begin with; and one without routers.
        if ["all", "default", "lo"].contains(&link.as_str()) {
            continue;
        }
        let path = format!("net/ipv6/conf/{link}/accept_ra");
        match sysctl::read(&path).and_then(|now| if now == "1" { sysctl::write(&path, "2") } else { Ok(()) })
        {
            // The link is gone.
            Ok(()) | Err(SysctlError::NotFound(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The first address of a network that a host may have, which is the gateway's unless IPAM says otherwise.
pub(super) fn first_host(address: IpNet) -> IpAddr {
    match address.trunc() {
        IpNet::V4(net) => Ipv4Addr::from(u32::from(net.network()).wrapping_add(1)).into(),
        IpNet::V6(net) => Ipv6Addr::from(u128::from(net.network()).wrapping_add(1)).into(),
    }
}

pub(super) fn everything(family: IpAddr) -> IpNet {
    match family {
        IpAddr::V4(_) => Ipv4Net::default().into(),
        IpAddr::V6(_) => Ipv6Net::default().into(),
    }
}
