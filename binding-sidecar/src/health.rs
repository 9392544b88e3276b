//! placeholder
use std::{io, path::Path, net::SocketAddr};
use crate::metrics::Metrics;
#[derive(Debug)]
pub struct Health;
impl Health {
    pub fn serve(_: Metrics, _: &Path, _: Option<SocketAddr>, _: tokio::sync::watch::Receiver<Option<SocketAddr>>) -> io::Result<Self> { Ok(Self) }
    pub fn ready(&self) {}
}
