//! Resolvers out of a file like /etc/resolv.conf (resolv.conf(5)). It must never resolve anything.

use crate::protocol::Dns;

/// Of several `domain` lines the last is taken; `search` and `options` add up. Other lines are skipped.
pub fn parse(text: &str) -> Dns {
    let mut dns = Dns::default();
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';'])) {
        let mut words = line.split_whitespace();
        let Some(key) = words.next() else { continue };
        let mut values = words.map(str::to_owned);
        match key {
            "nameserver" => dns.nameservers.extend(values.next()),
            "domain" => dns.domain = values.next().or(dns.domain),
            "search" => dns.search.extend(values),
            "options" => dns.options.extend(values),
            _ => {}
        }
    }
    dns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_unknown_lines_say_nothing() {
        let text = "# nameserver 192.0.2.1\n; search no\nnameserver 192.0.2.2 trailing\n  nameserver\tfe80::1%eth0\n\
                    nameserver\ndomain a.example\ndomain b.example\nsearch a b\nsearch c\noptions ndots:5 edns0\nsortlist x\n";
        assert_eq!(
            parse(text),
            Dns {
                nameservers: vec!["192.0.2.2".to_owned(), "fe80::1%eth0".to_owned()],
                domain: Some("b.example".to_owned()),
                search: ["a", "b", "c"].map(str::to_owned).to_vec(),
                options: ["ndots:5", "edns0"].map(str::to_owned).to_vec(),
            }
        );
    }
}
