//! The rates that a VM's traffic is held to, as the reference `bandwidth` plugin takes them. It must never shape anything.

use serde::Deserialize;

use super::cni_error::CniError;
use super::config::Config;

/// Zero is no limit; a rate has a burst and a burst a rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bandwidth {
    /// To the container, bits a second.
    pub ingress_rate: u64,
    /// Bits.
    pub ingress_burst: u64,
    /// From the container, bits a second.
    pub egress_rate: u64,
    /// Bits.
    pub egress_burst: u64,
}

impl Config {
    /// What the configuration says inline (at the top or in `bandwidth`), else `runtimeConfig.bandwidth`. `None` if
    /// nothing is limited.
    ///
    /// # Errors
    /// Code 7 with key and value; code 2 for the lists of subnets, which are not offered.
    pub fn bandwidth(&self) -> Result<Option<Bandwidth>, CniError> {
        for path in [&[][..], &["bandwidth"], &["runtimeconfig", "bandwidth"]] {
            let keys: Keys = self.read_at(path)?.unwrap_or_default();
            if keys.any() {
                return keys.checked(&self.keys.spell(path));
            }
        }
        Ok(None)
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Keys {
    #[serde(rename = "ingressrate")]
    ingress_rate: Option<u64>,
    #[serde(rename = "ingressburst")]
    ingress_burst: Option<u64>,
    #[serde(rename = "egressrate")]
    egress_rate: Option<u64>,
    #[serde(rename = "egressburst")]
    egress_burst: Option<u64>,
    #[serde(rename = "shapedsubnets")]
    shaped_subnets: Vec<String>,
    #[serde(rename = "unshapedsubnets")]
    unshaped_subnets: Vec<String>,
}

impl Keys {
    fn any(&self) -> bool {
        [self.ingress_rate, self.ingress_burst, self.egress_rate, self.egress_burst]
            .iter()
            .any(Option::is_some)
    }

    fn checked(&self, place: &str) -> Result<Option<Bandwidth>, CniError> {
        let key = |name: &str| if place.is_empty() { name.to_owned() } else { format!("{place}.{name}") };
        for (name, subnets) in
            [("shapedSubnets", &self.shaped_subnets), ("unshapedSubnets", &self.unshaped_subnets)]
        {
            if !subnets.is_empty() {
                return Err(CniError::unsupported(
                    &key(name),
                    format!("{subnets:?}"),
                    "all traffic is shaped alike",
                ));
            }
        }
        let bandwidth = Bandwidth {
            ingress_rate: self.ingress_rate.unwrap_or_default(),
            ingress_burst: self.ingress_burst.unwrap_or_default(),
            egress_rate: self.egress_rate.unwrap_or_default(),
            egress_burst: self.egress_burst.unwrap_or_default(),
        };
        check(&key("ingressRate"), bandwidth.ingress_rate, &key("ingressBurst"), bandwidth.ingress_burst)?;
        check(&key("egressRate"), bandwidth.egress_rate, &key("egressBurst"), bandwidth.egress_burst)?;
        Ok((bandwidth != Bandwidth::default()).then_some(bandwidth))
    }
}

/// Bits. `tc_tbf_qopt` has bytes in 32 bits.
const BURST_LIMIT: u64 = (u32::MAX as u64) * 8;

fn check(rate_key: &str, rate: u64, burst_key: &str, burst: u64) -> Result<(), CniError> {
    match (rate, burst) {
        (0, 0) => Ok(()),
        (_, 0) => Err(CniError::config(burst_key, burst, "if rate is set, burst must also be set")),
        (0, _) => Err(CniError::config(rate_key, rate, "if burst is set, rate must also be set")),
        // The kernel counts bytes, and zero of them is no limit.
        (1..8, _) => Err(CniError::config(rate_key, rate, "less than a byte each second")),
        (_, 1..8) => Err(CniError::config(burst_key, burst, "less than a byte")),
        (_, BURST_LIMIT..) => Err(CniError::config(burst_key, burst, "burst cannot be more than 4GB")),
        _ => Ok(()),
    }
}
