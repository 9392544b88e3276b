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

#[cfg(test)]
mod tests {
    use super::*;

    fn read(keys: &str) -> Result<Option<Bandwidth>, CniError> {
        Config::parse(format!(r#"{{"name":"n"{keys}}}"#).as_bytes()).unwrap().bandwidth()
    }

    const INLINE: &str = r#","ingressRate":8000,"ingressBurst":80000"#;
    const OBJECT: &str = r#","bandwidth":{"egressRate":9000,"egressBurst":90000}"#;
    const RUNTIME: &str = r#","runtimeConfig":{"bandWidth":{"ingressRate":7000,"ingressBurst":70000,"egressRate":7001,"egressBurst":70001}}"#;

    #[test]
    fn inline_limits_replace_the_runtimes() {
        let inline = Bandwidth { ingress_rate: 8000, ingress_burst: 80_000, ..Bandwidth::default() };
        let object = Bandwidth { egress_rate: 9000, egress_burst: 90_000, ..Bandwidth::default() };
        let runtime =
            Bandwidth { ingress_rate: 7000, ingress_burst: 70_000, egress_rate: 7001, egress_burst: 70_001 };
        for (keys, expected) in [
            ([INLINE, OBJECT, RUNTIME].concat(), Some(inline)),
            ([OBJECT, RUNTIME].concat(), Some(object)),
            (RUNTIME.to_owned(), Some(runtime)),
            (String::new(), None),
            (r#","ingressRate":0,"ingressBurst":0,"shapedSubnets":[]"#.to_owned(), None),
            // Said, so the runtime's count no more.
            ([r#","ingressRate":0"#, RUNTIME].concat(), None),
        ] {
            assert_eq!(read(&keys), Ok(expected), "{keys}");
        }
    }

    #[test]
    fn impossible_limits_are_refused() {
        let burst = u64::from(u32::MAX) * 8;
        for (keys, code, text) in [
            (r#","ingressRate":8"#, 7, "ingressBurst 0: if rate is set, burst must also be set"),
            (r#","egressBurst":8"#, 7, "egressRate 0: if burst is set, rate must also be set"),
            (r#","egressRate":7,"egressBurst":8"#, 7, "egressRate 7: less than a byte each second"),
            (r#","egressRate":8,"egressBurst":7"#, 7, "egressBurst 7: less than a byte"),
            (
                &format!(r#","ingressRate":8,"ingressBurst":{burst}"#),
                7,
                &format!("ingressBurst {burst}: burst cannot be more than 4GB"),
            ),
            (r#","ingressRate":"8M""#, 7, r#"ingressRate "8M": expected a whole number from 0 on"#),
            (r#","ingressRate":-1"#, 7, "ingressRate -1: expected a whole number from 0 on"),
            (
                r#","runtimeConfig":{"bandwidth":{"egressRate":8}}"#,
                7,
                "runtimeConfig.bandwidth.egressBurst 0: if rate is set, burst must also be set",
            ),
            (r#","runtimeConfig":{"bandwidth":5}"#, 7, "runtimeConfig.bandwidth 5: expected an object"),
            (
                r#","bandwidth":{"egressRate":8,"egressBurst":8,"unshapedSubnets":["10.0.0.0/8"]}"#,
                2,
                r#"bandwidth.unshapedSubnets ["10.0.0.0/8"]: all traffic is shaped alike"#,
            ),
            (
                r#","egressRate":8,"egressBurst":8,"shapedSubnets":["10.0.0.0/8"]"#,
                2,
                r#"shapedSubnets ["10.0.0.0/8"]: all traffic is shaped alike"#,
            ),
        ] {
            let error = read(keys).unwrap_err();
            let kind = if code == 2 { "unsupported field" } else { "invalid network configuration" };
            assert_eq!((error.code, error.to_string()), (code, format!("{kind}: {text}")), "{keys}");
        }
    }

    #[test]
    fn largest_burst_passes() {
        let keys = format!(r#","ingressRate":8,"ingressBurst":{}"#, BURST_LIMIT - 1);
        assert_eq!(read(&keys).unwrap().unwrap().ingress_burst, BURST_LIMIT - 1);
    }
}
