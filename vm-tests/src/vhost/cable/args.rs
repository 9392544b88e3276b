//! The cable's command line. Unknown options and bad values fail, by name.

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::Context as _;

pub(super) const USAGE: &str = "usage: vhost-cable --socket PATH --tap NAME [OPTIONS]
  --mtu N           of the tap (default 1500)
  --queues N        pairs of rings, each with a queue of the tap (default 1)
  --netns PATH      where the tap is
  --ring-size N     descriptors of a ring (default 256)
  --rx-buffer N     bytes of a receive buffer, header included (default 4096)
  --features MASK   virtio features to use at most, hexadecimal
  --reconnect       wait for the socket, at the start and whenever the back end goes away";

#[derive(Debug)]
pub(super) struct Args {
    pub(super) socket: PathBuf,
    pub(super) tap: String,
    pub(super) mtu: u16,
    pub(super) queues: u16,
    pub(super) netns: Option<PathBuf>,
    pub(super) ring_size: u16,
    pub(super) rx_buffer: u32,
    pub(super) features: u64,
    pub(super) reconnect: bool,
}

impl Args {
    /// The first argument is the program's name.
    pub(super) fn parse(arguments: impl Iterator<Item = String>) -> anyhow::Result<Self> {
        let (mut socket, mut tap, mut netns) = (None, None, None);
        let (mut mtu, mut queues, mut ring_size, mut rx_buffer) = (1500, 1, 256, 4096);
        let (mut features, mut reconnect) = (u64::MAX, false);
        let mut arguments = arguments.skip(1);
        while let Some(name) = arguments.next() {
            if name == "--reconnect" {
                reconnect = true;
                continue;
            }
            let known = [
                "--socket",
                "--tap",
                "--mtu",
                "--queues",
                "--netns",
                "--ring-size",
                "--rx-buffer",
                "--features",
            ];
            anyhow::ensure!(known.contains(&name.as_str()), "unknown option {name:?}\n{USAGE}");
            let value = arguments.next().with_context(|| format!("{name} needs a value"))?;
            match name.as_str() {
                "--socket" => socket = Some(PathBuf::from(value)),
                "--tap" => tap = Some(value),
                "--netns" => netns = Some(PathBuf::from(value)),
                "--mtu" => mtu = number(&name, &value)?,
                "--queues" => queues = number(&name, &value)?,
                "--ring-size" => ring_size = number(&name, &value)?,
                "--rx-buffer" => rx_buffer = number(&name, &value)?,
                _ => {
                    features = u64::from_str_radix(value.trim_start_matches("0x"), 16)
                        .ok()
                        .with_context(|| format!("{name}: {value:?} is not hexadecimal"))?;
                }
            }
        }
        anyhow::ensure!((1..=128).contains(&queues), "--queues: 1 to 128");
        anyhow::ensure!(rx_buffer >= 128, "--rx-buffer: 128 or more");
        Ok(Self {
            socket: socket.with_context(|| format!("--socket is missing\n{USAGE}"))?,
            tap: tap.with_context(|| format!("--tap is missing\n{USAGE}"))?,
            mtu,
            queues,
            netns,
            ring_size,
            rx_buffer,
            features,
            reconnect,
        })
    }
}

fn number<T: FromStr>(name: &str, value: &str) -> anyhow::Result<T> {
    value.parse().ok().with_context(|| format!("{name}: {value:?} is not understood"))
}
