//! Namespaces, links, taps and traffic control against the real kernel, with `ip`, `tc` and `bridge` as witnesses.

mod lab;
mod namespaces;
mod links;
mod ports;
mod networks;
mod taps;
mod traffic;
