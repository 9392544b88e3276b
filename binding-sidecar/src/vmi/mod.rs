//! From a VMI to its NICs. Pure: the VMI's JSON and what is known of container and pod go in, checked facts come out. It
//! must never know of XML or of processes.
