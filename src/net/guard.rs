//! The egress guard: which addresses are never dialled. Asked for every address of every connection, after the name
//! was resolved, so that a DNS answer that changes is caught. Opens nothing itself.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::proxy;
use crate::config::model::{Egress, Proxy};

/// What is never dialled unless `egress.allow` says so: rule, network.
const BUILT_IN: [(&str, &str); 7] = [
    ("link-local", "169.254.0.0/16"),
    ("link-local", "fe80::/10"),
    ("cloud metadata (AWS)", "fd00:ec2::/32"),
    ("cloud metadata (Google)", "fd20:ce::254/128"),
    ("cloud metadata (Alibaba)", "100.100.100.200/32"),
    ("cloud metadata (Oracle)", "192.0.0.192/32"),
    ("cloud metadata (Azure)", "168.63.129.16/32"),
];

/// Decides on addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guard {
    allow_http: bool,
    built_in: Vec<(&'static str, IpNet)>,
    deny: Vec<IpNet>,
    allow: Vec<IpNet>,
    proxy: Option<Proxy>,
}

/// A refusal that names its rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// An address.
    #[error("{address}{} is blocked by {rule}; egress.allow can make an exception", disguise(*address, *face))]
    Address {
        /// What would have been dialled.
        address: IpAddr,
        /// The address that the rule is about; another one when `address` embeds it.
        face: IpAddr,
        /// The rule.
        rule: String,
    },
    /// Not HTTPS.
    #[error("http:// is blocked; use https://, or set egress.allow_http: true")]
    PlainHttp,
    /// Neither `http` nor `https`.
    #[error("only https:// and http:// are spoken here")]
    Scheme,
}

impl Guard {
    /// From `egress`.
    #[must_use]
    pub fn new(egress: &Egress) -> Self {
        let built_in = BUILT_IN.iter().filter_map(|(rule, net)| Some((*rule, net.parse().ok()?))).collect();
        Self {
            allow_http: egress.allow_http,
            built_in,
            deny: egress.deny.clone(),
            allow: egress.allow.clone(),
            proxy: egress.proxy.clone(),
        }
    }

    /// The proxy that leads to `host`, if one does.
    pub(super) fn proxy_for(&self, host: &str) -> Option<&Proxy> {
        self.proxy.as_ref().filter(|proxy| proxy::applies(proxy, host))
    }

    /// Whether this scheme may be spoken.
    pub fn check_scheme(&self, scheme: Option<&str>) -> Result<(), Denied> {
        match scheme {
            Some("https") => Ok(()),
            Some("http") if self.allow_http => Ok(()),
            Some("http") => Err(Denied::PlainHttp),
            _ => Err(Denied::Scheme),
        }
    }

    /// Whether this address may be dialled. An address that embeds others (IPv4-mapped, NAT64, 6to4, Teredo, …) must
    /// pass for each of them.
    pub fn check(&self, address: IpAddr) -> Result<(), Denied> {
        for face in faces(address) {
            let Some(rule) = self.rule_against(face) else { continue };
            if !self.allow.iter().any(|net| net.contains(&face)) {
                return Err(Denied::Address { address, face, rule });
            }
        }
        Ok(())
    }

    fn rule_against(&self, face: IpAddr) -> Option<String> {
        if let Some(net) = self.deny.iter().find(|net| net.contains(&face)) {
            return Some(format!("egress.deny {net}"));
        }
        let (rule, net) = self.built_in.iter().find(|(_, net)| net.contains(&face))?;
        Some(format!("the built-in rule {rule} ({net})"))
    }
}

/// The address and every address that it may be a disguise of.
fn faces(address: IpAddr) -> Vec<IpAddr> {
    let mut faces = vec![address];
    match address {
        // The system connects to itself for the unspecified address.
        IpAddr::V4(v4) if v4.is_unspecified() => faces.push(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        IpAddr::V4(_) => {}
        IpAddr::V6(v6) => {
            if v6.is_unspecified() {
                faces.extend([IpAddr::V6(Ipv6Addr::LOCALHOST), IpAddr::V4(Ipv4Addr::LOCALHOST)]);
            } else if !v6.is_loopback() {
                faces.extend(embedded(v6).into_iter().map(IpAddr::V4));
            }
        }
    }
    faces
}

/// IPv4 addresses inside an IPv6 one.
fn embedded(v6: Ipv6Addr) -> Vec<Ipv4Addr> {
    let b = v6.octets();
    let s = v6.segments();
    let last = Ipv4Addr::new(b[12], b[13], b[14], b[15]);
    let mut found = Vec::new();
    match s {
        // IPv4-mapped ::ffff:0:0/96, IPv4-compatible ::/96 and IPv4-translated ::ffff:0:0:0/96 (RFC 4291, RFC 2765)
        // and NAT64 with its well-known prefix (RFC 6052)
        [0, 0, 0, 0, 0, 0 | 0xffff, ..] | [0, 0, 0, 0, 0xffff, 0, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => {
            found.push(last);
        }
        // NAT64, local use 64:ff9b:1::/48 (RFC 8215): the operator chose the length, so every place is looked at
        [0x64, 0xff9b, 1, ..] => found.extend([
            last,
            Ipv4Addr::new(b[6], b[7], b[9], b[10]),
            Ipv4Addr::new(b[7], b[9], b[10], b[11]),
            Ipv4Addr::new(b[9], b[10], b[11], b[12]),
        ]),
        // 6to4 2002::/16 (RFC 3056)
        [0x2002, ..] => found.push(Ipv4Addr::new(b[2], b[3], b[4], b[5])),
        // Teredo 2001::/32 (RFC 4380): server, and the client with its bits flipped
        [0x2001, 0, ..] => {
            found.extend([Ipv4Addr::new(b[4], b[5], b[6], b[7]), Ipv4Addr::new(!b[12], !b[13], !b[14], !b[15])]);
        }
        _ => {}
    }
    // ISATAP interface identifier, under any prefix (RFC 5214)
    if (s[4] == 0 || s[4] == 0x0200) && s[5] == 0x5efe {
        found.push(last);
    }
    found
}

fn disguise(address: IpAddr, face: IpAddr) -> String {
    if address == face { String::new() } else { format!(" (which leads to {face})") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(deny: &[&str], allow: &[&str]) -> Guard {
        let nets = |list: &[&str]| list.iter().map(|n| n.parse().expect("a network")).collect();
        Guard::new(&Egress { deny: nets(deny), allow: nets(allow), ..Egress::default() })
    }

    #[test]
    fn built_in_list_and_its_disguises() {
        let guard = guard(&[], &[]);
        assert_eq!(guard.built_in.len(), BUILT_IN.len(), "every built-in network is readable");
        for (address, expected) in [
            ("169.254.169.254", Some("169.254.169.254 is blocked by the built-in rule link-local (169.254.0.0/16)")),
            ("fe80::1", Some("link-local (fe80::/10)")),
            ("fd00:ec2::254", Some("cloud metadata (AWS)")),
            ("fd20:ce::254", Some("cloud metadata (Google)")),
            ("100.100.100.200", Some("cloud metadata (Alibaba)")),
            ("168.63.129.16", Some("cloud metadata (Azure)")),
            ("::ffff:169.254.169.254", Some("(which leads to 169.254.169.254) is blocked")),
            ("::169.254.169.254", Some("which leads to 169.254.169.254")),
            ("::ffff:0:169.254.169.254", Some("which leads to 169.254.169.254")),
            ("64:ff9b::a9fe:a9fe", Some("which leads to 169.254.169.254")),
            ("64:ff9b:1::a9fe:a9fe", Some("which leads to 169.254.169.254")),
            ("64:ff9b:1:a9fe:a9:fe00::", Some("which leads to 169.254.169.254")),
            ("2002:a9fe:a9fe::1", Some("which leads to 169.254.169.254")),
            ("2001:0:a9fe:a9fe::1", Some("which leads to 169.254.169.254")),
            ("2001:0:808:808::5601:5601", Some("which leads to 169.254.169.254")),
            ("2606:4700::200:5efe:a9fe:a9fe", Some("which leads to 169.254.169.254")),
            ("127.0.0.1", None),
            ("::1", None),
            ("0.0.0.0", None),
            ("10.0.0.1", None),
            ("192.168.1.1", None),
            ("8.8.8.8", None),
            ("2606:4700:4700::1111", None),
            ("::ffff:8.8.8.8", None),
            ("64:ff9b::808:808", None),
        ] {
            let answer = guard.check(address.parse().expect(address)).map_err(|e| e.to_string());
            match (answer, expected) {
                (Ok(()), None) => {}
                (Err(message), Some(text)) => assert!(message.contains(text), "{message}"),
                (answer, expected) => panic!("{address}: {answer:?}, expected {expected:?}"),
            }
        }
    }

    #[test]
    fn deny_adds_and_allow_is_an_exception_to_both() {
        let strict = guard(&["0.0.0.0/0", "::/0"], &["10.1.0.0/16", "169.254.7.7/32"]);
        for (address, allowed) in [
            ("10.1.2.3", true),
            ("169.254.7.7", true),
            ("10.2.2.3", false),
            ("127.0.0.1", false),
            ("169.254.169.254", false),
            ("2606:4700::1", false),
        ] {
            assert_eq!(strict.check(address.parse().expect(address)).is_ok(), allowed, "{address}");
        }
        let message = strict.check("10.2.2.3".parse().expect("an address")).expect_err("denied").to_string();
        assert_eq!(message, "10.2.2.3 is blocked by egress.deny 0.0.0.0/0; egress.allow can make an exception");

        let no_loopback = guard(&["127.0.0.0/8", "::1/128"], &[]);
        for address in ["0.0.0.0", "::", "::ffff:127.0.0.1", "127.1.2.3", "::1"] {
            assert!(no_loopback.check(address.parse().expect(address)).is_err(), "{address}");
        }
        let v6_allowed = guard(&[], &["2002::/16"]);
        assert!(v6_allowed.check("2002:a9fe:a9fe::1".parse().expect("an address")).is_err(), "the inner one counts");
    }

    #[test]
    fn https_only_unless_allowed() {
        let strict = guard(&[], &[]);
        assert_eq!(strict.check_scheme(Some("https")), Ok(()));
        assert_eq!(strict.check_scheme(Some("http")), Err(Denied::PlainHttp));
        assert_eq!(strict.check_scheme(Some("ftp")), Err(Denied::Scheme));
        let loose = Guard::new(&Egress { allow_http: true, ..Egress::default() });
        assert_eq!(loose.check_scheme(Some("http")), Ok(()));
    }
}
