//! Facts about addresses: ours beside the reference plugins of Debian's package containernetworking-plugins, against a
//! model, and with delegates. Needs no privileges.

#[cfg(test)]
mod ipam {
    mod bench;
    mod reference;
    mod precedence;
    mod parallel;
    mod model;
    mod leases;
    mod delegate;
    mod status;
}
