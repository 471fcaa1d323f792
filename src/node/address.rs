//! Addresses as people write them.

use crate::limits::COORDINATOR_PORT;

/// `host:port` for `host:port`, `host`, `::1` and `[::1]:port`.
#[must_use]
pub fn with_port(address: &str) -> String {
    with_default_port(address, COORDINATOR_PORT)
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
        }
    }
}
