use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use data_encoding::{BASE64, BASE64_NOPAD};
use hmac::{Hmac, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

/// What a nonce starts with if the server has the security features of RFC 8489 (section
/// 9.2), followed by the features as four characters.
const COOKIE: &str = "obMatJos2";
/// The feature bit for PASSWORD-ALGORITHMS (RFC 8489 section 18.1).
pub(super) const PASSWORD_ALGORITHMS: u8 = 0x01;
/// The feature bit for USERHASH (RFC 8489 section 18.1).
pub(super) const USERNAME_ANONYMITY: u8 = 0x02;

/// Bytes of the MAC: with the time, the nonce has 32 characters, which lets a 401 with
/// an 11-character realm have 92 bytes.
const MAC_LEN: usize = 10;

/// For whom a nonce is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A datagram's source, which may be forged: the nonce proves that it is not.
    Datagram(SocketAddr),
    /// The far end of a stream, proven by the handshake. RFC 6062 opens several
    /// connections with one nonce, so the port does not count.
    Stream(IpAddr),
}

impl Origin {
    /// The network of somebody who was introduced by another connection, which has proven it:
    /// the address, of IPv6 the first half. The port does not count.
    pub(crate) fn introduced(ip: IpAddr) -> Self {
        const NETWORK: u128 = 0xffff_ffff_ffff_ffff_0000_0000_0000_0000;
        Self::Stream(match ip.to_canonical() {
            IpAddr::V4(ip) => ip.into(),
            IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & NETWORK).into(),
        })
    }

    pub(super) const fn ip(self) -> IpAddr {
        match self {
            Self::Datagram(address) => address.ip(),
            Self::Stream(ip) => ip,
        }
    }
}

/// Makes and recognises nonces.
pub(super) struct Nonces {
    /// As HMAC pads it: no length can be wrong.
    key: [u8; 64],
    lifetime: Duration,
}

impl Nonces {
    pub(super) fn new(key: [u8; 32], lifetime: Duration) -> Self {
        let mut block = [0; 64];
        block.iter_mut().zip(key).for_each(|(to, from)| *to = from);
        Self {
            key: block,
            lifetime,
        }
    }

    pub(super) const fn lifetime(&self) -> Duration {
        self.lifetime
    }

    /// A nonce made at `unix` seconds since 1970.
    pub(super) fn issue(&self, unix: u64, origin: Origin, features: u8) -> String {
        let time = seconds(unix).to_be_bytes();
        let mut bytes = time.to_vec();
        bytes.extend_from_slice(&self.mac(time, origin, features));
        format!("{}{}", prefix(features), BASE64_NOPAD.encode(&bytes))
    }

    /// Whether the nonce is one of ours for this origin and these features, and not too
    /// old.
    pub(super) fn is_valid(&self, unix: u64, origin: Origin, features: u8, nonce: &str) -> bool {
        let Some((time, mac)) = split(nonce, features) else {
            return false;
        };
        let genuine = bool::from(self.mac(time, origin, features).ct_eq(&mac));
        let age = seconds(unix).checked_sub(u32::from_be_bytes(time));
        genuine && age.is_some_and(|age| u64::from(age) <= self.lifetime.as_secs())
    }

    fn mac(&self, time: [u8; 4], origin: Origin, features: u8) -> [u8; MAC_LEN] {
        let (ip, port) = match origin {
            Origin::Datagram(address) => (address.ip(), address.port()),
            Origin::Stream(ip) => (ip, 0),
        };
        let mac = Hmac::<Sha256>::new(&self.key.into())
            .chain_update(time)
            .chain_update([features])
            .chain_update(octets(ip))
            .chain_update(port.to_be_bytes())
            .finalize()
            .into_bytes();
        mac.first_chunk().copied().unwrap_or_default()
    }
}

fn octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

fn split(nonce: &str, features: u8) -> Option<([u8; 4], [u8; MAC_LEN])> {
    let encoded = nonce.strip_prefix(&prefix(features))?;
    let bytes = BASE64_NOPAD.decode(encoded.as_bytes()).ok()?;
    let (time, mac) = bytes.split_first_chunk::<4>()?;
    Some((*time, mac.try_into().ok()?))
}

fn prefix(features: u8) -> String {
    format!("{COOKIE}{}", BASE64.encode(&[0, 0, features]))
}

/// The time as a nonce has it: 32 bits last until 2106.
fn seconds(unix: u64) -> u32 {
    u32::try_from(unix).unwrap_or(u32::MAX)
}
