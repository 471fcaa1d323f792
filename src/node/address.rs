//! Addresses as people write them.

use crate::limits::COORDINATOR_PORT;

/// `host:port` for `host:port`, `host`, `::1` and `[::1]:port`.
#[must_use]
pub fn with_port(address: &str) -> String {
    with_default_port(address, COORDINATOR_PORT)
}

/// True for what [`with_port`] makes an address of that can be dialled: `HOST` or `HOST:PORT`.
pub(crate) fn is_address(text: &str) -> bool {
    let is_v6 = |text: &str| text.parse::<std::net::Ipv6Addr>().is_ok();
    let (host, port) = match text.rsplit_once(':') {
        _ if is_v6(text) => return true,
        // The last part of an address in brackets is no port.
        Some((_, port)) if port.ends_with(']') => (text, None),
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    let is_name = |c: char| c.is_alphanumeric() || "-._".contains(c);
    let inner = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let is_host = match inner {
        Some(inner) => is_v6(inner.split('%').next().unwrap_or_default()),
        None => !host.is_empty() && host.chars().all(is_name),
    };
    let is_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
    is_host && port.is_none_or(is_port)
}

pub(crate) fn with_default_port(address: &str, default: u16) -> String {
    let is_bare_v6 = address.parse::<std::net::Ipv6Addr>().is_ok();
    let has_port = address
        .rsplit_once(':')
        .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    match (is_bare_v6, has_port) {
        (true, _) => format!("[{address}]:{default}"),
        (false, true) => address.to_owned(),
        (false, false) => format!("{address}:{default}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_get_their_port() {
        for (given, full) in [
            ("robot", "robot:7679"),
            ("robot:1", "robot:1"),
            ("::1", "[::1]:7679"),
            ("[::1]:5", "[::1]:5"),
            ("127.0.0.1", "127.0.0.1:7679"),
        ] {
            assert_eq!(with_port(given), full);
            assert!(is_address(given) && is_address(full), "{given}");
        }
    }

    #[test]
    fn what_cannot_be_dialled_is_no_address() {
        for wrong in [
            "",
            ":",
            ":7679",
            "robot:",
            "robot:0",
            "127.0.0.1:99999",
            "abc:def",
            "a b",
            "http://robot",
            "robot:1:2",
            "[robot]:1",
            "[::1",
            "[::1]x",
            "a\x1b]52;c",
        ] {
            assert!(!is_address(wrong), "{wrong}");
        }
    }
}
