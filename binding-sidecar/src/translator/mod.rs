//! Translators: one passt-rs for each NIC, told what the NIC is, started, watched, ended. It must never know of XML.

pub mod arguments;
