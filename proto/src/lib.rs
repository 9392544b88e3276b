//! KubeVirt's hook API: the messages and services by which virt-launcher and virt-handler speak with a sidecar, as
//! servers and as clients. Generated from the files in `proto/`, which are wire-compatible with KubeVirt's; it must never
//! hold anything else.
//!
//! | module | service | spoken by |
//! |---|---|---|
//! | [`info`] | `Info` | virt-launcher, once per socket it finds |
//! | [`v1alpha1`], [`v1alpha2`], [`v1alpha3`] | `Callbacks` | virt-launcher, in the highest version offered |
//! | [`plugins::v1alpha1`] | `DomainHookService`, `NodeHookService` | virt-launcher and virt-handler, for `Plugin` objects |

pub mod info {
    #![allow(warnings, clippy::all, clippy::pedantic, reason = "generated")]
    include!("generated/kubevirt.hooks.info.rs");
}

pub mod v1alpha1 {
    #![allow(warnings, clippy::all, clippy::pedantic, reason = "generated")]
    include!("generated/kubevirt.hooks.v1alpha1.rs");
}

pub mod v1alpha2 {
    #![allow(warnings, clippy::all, clippy::pedantic, reason = "generated")]
    include!("generated/kubevirt.hooks.v1alpha2.rs");
}

pub mod v1alpha3 {
    #![allow(warnings, clippy::all, clippy::pedantic, reason = "generated")]
    include!("generated/kubevirt.hooks.v1alpha3.rs");
}

pub mod plugins {
    pub mod v1alpha1 {
        #![allow(warnings, clippy::all, clippy::pedantic, reason = "generated")]
        include!("generated/kubevirt.hooks.plugins.v1alpha1.rs");
    }
}
