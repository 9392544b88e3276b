//! Another pod of the same world: where a guest moves to. It must never be needed by a lab that has one guest.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{Lab, Namespace, Variant, WORLD_LINK_V4, WORLD_LINK_V6};

pub const SECOND_POD_V4: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 6);
pub const SECOND_POD_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, 6);

/// A namespace beside the pod's, with addresses of its own. It reaches the world, but not the other pod.
#[derive(Debug)]
pub struct SecondPod {
    namespace: Namespace,
}

impl SecondPod {
    /// Adds the pod to `lab`, a dual-stack one.
    pub fn new(lab: &Lab) -> anyhow::Result<Self> {
        anyhow::ensure!(
            lab.variant() == Variant::DualStack,
            "a second pod is dual-stack, as its lab must be"
        );
        let pod = Self { namespace: Namespace::create(&format!("{}2", lab.pod().name()))? };
        pod.namespace.prepare()?;
        lab.world().ip(&format!(
            "link add pod1 type veth peer name eth0 netns {name}\n\
             link set pod1 up\n\
             route add {SECOND_POD_V4}/32 dev pod1\n\
             route add {SECOND_POD_V6}/128 dev pod1\n",
            name = pod.namespace.name(),
        ))?;
        // The gateway's IPv6 address is on the first pod's link, and only there the world answers for it.
        lab.world().ip(&format!("address add {WORLD_LINK_V6}/128 dev pod1 nodad\n"))?;
        pod.namespace.ip(&format!(
            "link set eth0 up\n\
             address add {SECOND_POD_V4}/24 dev eth0\n\
             route add default via {WORLD_LINK_V4}\n\
             address add {SECOND_POD_V6}/64 dev eth0 nodad\n\
             route add default via {WORLD_LINK_V6}\n"
        ))?;
        Ok(pod)
    }

    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }
}

impl Drop for SecondPod {
    fn drop(&mut self) {
        self.namespace.remove();
    }
}
