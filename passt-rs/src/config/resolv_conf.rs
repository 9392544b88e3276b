//! The resolvers and search domains of a `resolv.conf`, as far as they can be handed to a guest.

use std::net::IpAddr;

/// What a `resolv.conf` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvConf {
    pub nameservers: Vec<IpAddr>,
    pub search: Vec<String>,
}

impl ResolvConf {
    /// Reads the file's text; lines that are not understood are skipped, as resolvers do.
    pub fn parse(text: &str) -> Self {
        let mut found = Self::default();
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_whitespace();
            match words.next() {
                // An address with a zone names a link of ours, which the guest does not have.
                Some("nameserver") => {
                    found.nameservers.extend(words.next().and_then(|word| word.parse::<IpAddr>().ok()))
                }
                // The last of `search` and `domain` counts (resolv.conf(5)).
                Some("search" | "domain") => {
                    found.search = words
                        .map(|word| word.trim_end_matches('.').to_owned())
                        .filter(|word| !word.is_empty())
                        .collect();
                }
                _ => {}
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_understood() {
        let table: &[(&str, &str, &[&str], &[&str])] = &[
            ("empty", "", &[], &[]),
            (
                "a cluster's",
                "search a.svc.cluster.local svc.cluster.local\nnameserver 10.96.0.10\noptions ndots:5\n",
                &["10.96.0.10"],
                &["a.svc.cluster.local", "svc.cluster.local"],
            ),
            (
                "both families in order",
                "nameserver fd00::10\nnameserver 10.96.0.10",
                &["fd00::10", "10.96.0.10"],
                &[],
            ),
            ("comments", "# nameserver 1.1.1.1\n;search x\nnameserver 9.9.9.9 # nine", &["9.9.9.9"], &[]),
            ("last search wins", "search a b\ndomain c.", &[], &["c"]),
            ("root domain", "search .", &[], &[]),
            ("zones and names", "nameserver fe80::1%eth0\nnameserver dns.example\nnameserver", &[], &[]),
        ];
        for (name, text, nameservers, search) in table {
            let found = ResolvConf::parse(text);
            let shown: Vec<String> = found.nameservers.iter().map(IpAddr::to_string).collect();
            assert_eq!(
                (shown, found.search),
                (
                    nameservers.iter().map(ToString::to_string).collect(),
                    search.iter().map(ToString::to_string).collect()
                ),
                "{name}"
            );
        }
    }
}
