//! Leases on disk. The kernel has the addresses and ports; the file has whose they are and
//! what they are called, as JSON, so that no text of a client can be taken for anything else.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use postern_proto::gateway::{Filter, Kind, Lease, LeaseId, Origin};
use postern_proto::turn::server::Cidr;
use postern_wire::pcp::Nonce;
use postern_wire::transport::Transport;
use serde::{Deserialize, Serialize};

use super::files::replace;

/// The name of the file.
const NAME: &str = "leases.json";

/// What the file holds.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Saved {
    /// Seconds that leases have been kept for.
    epoch: u64,
    /// When it was written: seconds since 1970.
    written: u64,
    /// BOOTID.UPNP.ORG of the run that wrote it.
    pub(super) boot_id: u32,
    /// Of UPnP's device.
    pub(super) uuid: String,
    leases: Vec<SavedLease>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedLease {
    transport: String,
    kind: SavedKind,
    internal: SocketAddr,
    filters: Vec<SavedFilter>,
    owner: IpAddr,
    origin: SavedOrigin,
    description: String,
    enabled: bool,
    /// Seconds since 1970; nothing for a lease without an end.
    expires: Option<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum SavedKind {
    Mapping { port: u16 },
    Peer { port: u16, remote: SocketAddrV4 },
    Pinhole,
    PeerPinhole { remote: SocketAddrV6 },
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedFilter {
    network: IpAddr,
    length: u8,
    port: Option<u16>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum SavedOrigin {
    Upnp,
    NatPmp,
    Pcp(String),
}

/// The file of leases.
#[derive(Debug)]
pub(super) struct Store {
    path: PathBuf,
}

impl Store {
    /// In a directory that is made if it is not there.
    pub(super) fn open(directory: &Path) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        Ok(Self {
            path: directory.join(NAME),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What was saved; nothing when there is no file, or it makes no sense: then it is put
    /// aside and leases are only those that the kernel has.
    pub(super) fn load(&self) -> io::Result<Option<Saved>> {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        match serde_json::from_slice(&bytes) {
            Ok(saved) => Ok(Some(saved)),
            Err(error) => {
                let aside = self.path.with_extension("broken");
                tracing::warn!(%error, ?aside, "the file of leases cannot be read");
                fs::rename(&self.path, aside)?;
                Ok(None)
            }
        }
    }

    pub(super) fn save(&self, saved: &Saved) -> io::Result<()> {
        replace(&self.path, &serde_json::to_vec(saved)?)
    }
}

impl Saved {
    pub(super) fn new<'a>(
        now: Instant,
        epoch: Duration,
        identity: (u32, String),
        leases: impl Iterator<Item = &'a Lease>,
    ) -> Self {
        let (boot_id, uuid) = identity;
        let written = unix_now();
        Self {
            epoch: epoch.as_secs(),
            written: written.as_secs(),
            boot_id,
            uuid,
            leases: leases
                .map(|lease| SavedLease::new(now, written, lease))
                .collect(),
        }
    }

    /// The epoch goes on while nobody answers, if leases were kept.
    pub(super) fn epoch(&self) -> Duration {
        let since = unix_now().as_secs().saturating_sub(self.written);
        Duration::from_secs(self.epoch.saturating_add(since))
    }

    /// The leases that have not ended.
    pub(super) fn leases(&self, now: Instant) -> Vec<Lease> {
        let unix = unix_now();
        let leases = self.leases.iter();
        leases.filter_map(|saved| saved.read(now, unix)).collect()
    }
}

impl SavedLease {
    fn new(now: Instant, unix: Duration, lease: &Lease) -> Self {
        let end = |end: Instant| {
            let left = end.saturating_duration_since(now);
            unix.saturating_add(left).as_secs()
        };
        Self {
            transport: lease.transport.as_str().to_owned(),
            kind: match lease.kind {
                Kind::Mapping { external_port } => SavedKind::Mapping {
                    port: external_port,
                },
                Kind::Peer {
                    external_port,
                    remote,
                } => SavedKind::Peer {
                    port: external_port,
                    remote,
                },
                Kind::Pinhole => SavedKind::Pinhole,
                Kind::PeerPinhole { remote } => SavedKind::PeerPinhole { remote },
            },
            internal: lease.internal,
            filters: lease.filters.iter().map(SavedFilter::new).collect(),
            owner: lease.owner,
            origin: match lease.origin {
                Origin::Upnp => SavedOrigin::Upnp,
                Origin::NatPmp => SavedOrigin::NatPmp,
                Origin::Pcp(Nonce(nonce)) => {
                    SavedOrigin::Pcp(data_encoding::HEXLOWER.encode(&nonce))
                }
            },
            description: lease.description.clone(),
            enabled: lease.enabled,
            expires: lease.expires.map(end),
        }
    }

    fn read(&self, now: Instant, unix: Duration) -> Option<Lease> {
        let transport: Transport = self.transport.parse().ok()?;
        let expires = match self.expires {
            None => None,
            Some(end) => {
                let left = end.checked_sub(unix.as_secs()).filter(|left| *left > 0)?;
                Some(now.checked_add(Duration::from_secs(left))?)
            }
        };
        let filters: Option<Vec<Filter>> = self.filters.iter().map(SavedFilter::read).collect();
        Some(Lease {
            id: LeaseId::default(),
            transport,
            kind: match self.kind {
                SavedKind::Mapping { port } => Kind::Mapping {
                    external_port: port,
                },
                SavedKind::Peer { port, remote } => Kind::Peer {
                    external_port: port,
                    remote,
                },
                SavedKind::Pinhole => Kind::Pinhole,
                SavedKind::PeerPinhole { remote } => Kind::PeerPinhole { remote },
            },
            internal: self.internal,
            filters: filters?,
            owner: self.owner,
            origin: self.origin.read()?,
            description: self.description.clone(),
            enabled: self.enabled,
            expires,
        })
    }
}

impl SavedFilter {
    fn new(filter: &Filter) -> Self {
        Self {
            network: filter.network.network(),
            length: filter.network.prefix_length(),
            port: filter.port,
        }
    }

    fn read(&self) -> Option<Filter> {
        Some(Filter {
            network: Cidr::new(self.network, self.length)?,
            port: self.port,
        })
    }
}

impl SavedOrigin {
    fn read(&self) -> Option<Origin> {
        Some(match self {
            Self::Upnp => Origin::Upnp,
            Self::NatPmp => Origin::NatPmp,
            Self::Pcp(hex) => {
                let bytes = data_encoding::HEXLOWER.decode(hex.as_bytes()).ok()?;
                Origin::Pcp(Nonce(bytes.try_into().ok()?))
            }
        })
    }
}

fn unix_now() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(description: &str) -> Lease {
        Lease {
            id: LeaseId::default(),
            transport: Transport::Udp,
            kind: Kind::Mapping {
                external_port: 4001,
            },
            internal: "192.168.1.10:4000".parse().unwrap(),
            filters: vec![Filter {
                network: "198.51.100.0/24".parse().unwrap(),
                port: None,
            }],
            owner: "192.168.1.10".parse().unwrap(),
            origin: Origin::Pcp(Nonce([7; 12])),
            description: description.to_owned(),
            enabled: true,
            expires: None,
        }
    }

    #[test]
    fn leases_are_read_as_they_were_written_whatever_they_are_called() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        assert!(store.load().unwrap().is_none());
        let now = Instant::now();
        let evil = "x\nTCP:4022:192.168.1.11:4022:1999999999:evil\",\"owner\":\"10.0.0.1";
        let leases = [lease(evil), lease("")];
        let saved = Saved::new(
            now,
            Duration::from_secs(5),
            (3, String::new()),
            leases.iter(),
        );
        store.save(&saved).unwrap();
        let loaded = store.load().unwrap().unwrap();
        assert_eq!(loaded.leases(now), leases);
        assert_eq!(loaded.boot_id, 3);
        assert!(loaded.epoch() >= Duration::from_secs(5));
    }

    #[test]
    fn a_lease_that_has_ended_meanwhile_is_left_out() {
        let now = Instant::now();
        let ended = Lease {
            expires: Some(now),
            ..lease("")
        };
        let saved = Saved::new(now, Duration::ZERO, (1, String::new()), [ended].iter());
        assert_eq!(saved.leases(now), []);
    }

    #[test]
    fn a_broken_file_is_put_aside() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        fs::write(store.path(), "{").unwrap();
        assert!(store.load().unwrap().is_none());
        assert!(!store.path().exists());
        assert!(store.path().with_extension("broken").exists());
    }
}
