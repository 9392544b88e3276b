//! The CNI plugin as its runtimes meet it: an executable, called on nodes made of network namespaces.

mod reference;
