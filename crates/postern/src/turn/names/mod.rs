//! From URIs to servers (RFC 5928 for TURN, RFC 8489 section 8 for STUN).

mod order;

#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};

use futures_util::future::join_all;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{RData, RecordType};
use postern_wire::uri::{Host, ServerUri, Transport};

use self::order::{Next, Rule, Service};
use super::options::Server;
use super::transport::Target;
use crate::trust::Trust;

/// Servers that one URI leads to: more do not make a relay likelier.
const MAX_SERVERS: usize = 8;

/// Records of one answer that are looked at.
const MAX_RECORDS: usize = 16;

/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 16;

/// How often NAPTR records may lead to other ones.
const MAX_REWRITES: usize = 4;

/// Why no server was found.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// The system has no configuration of name servers that can be read.
    #[error("this machine's name servers could not be read; name the server by its address")]
    NoNameServers,
    /// Neither SRV records nor addresses.
    #[error("the name {name} could not be resolved; check it, and this machine's DNS")]
    NotFound {
        /// The name.
        name: String,
        /// What the resolver said.
        #[source]
        source: Box<NetError>,
    },
    /// DNS says that there is none: an SRV record with the target ".".
    #[error("{name} has no such service")]
    NoService {
        /// The name.
        name: String,
    },
    /// The system has no randomness to give.
    #[error("the system gave no random numbers")]
    Entropy(#[from] getrandom::Error),
}

/// Asks DNS for STUN and TURN servers.
#[derive(Debug, Clone)]
pub struct Resolver {
    /// `None` if the system has no configuration.
    inner: Option<TokioResolver>,
}

/// Where a server is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    transport: Transport,
    port: u16,
    addresses: Vec<IpAddr>,
}

impl Resolver {
    /// Asks the name servers of the system. Must be called inside a tokio runtime.
    #[must_use]
    pub fn system() -> Self {
        let builder = TokioResolver::builder_tokio();
        let built = builder.and_then(|builder| builder.build());
        Self {
            inner: built
                .inspect_err(|error| tracing::warn!(%error, "no name servers"))
                .ok(),
        }
    }

    /// Asks this name server. Must be called inside a tokio runtime.
    #[must_use]
    pub fn with_name_server(address: SocketAddr) -> Self {
        let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
        let connections = connections.map(|mut connection| {
            connection.port = address.port();
            connection
        });
        let server = NameServerConfig::new(address.ip(), true, connections.into());
        let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
        let provider = TokioRuntimeProvider::default();
        let builder = TokioResolver::builder_with_config(config, provider);
        Self {
            inner: builder.build().ok(),
        }
    }

    /// The servers behind a URI, in the order to try them in: each SRV target, or the host
    /// itself. Certificates are for the URI's host (`trust` judges them, if the scheme is
    /// secure).
    ///
    /// Of a URI without a transport come those of `wanted`: in the order of NAPTR records if
    /// there are any, else UDP before TCP, and TLS before DTLS.
    ///
    /// # Errors
    ///
    /// [`ResolveError`].
    pub async fn resolve(
        &self,
        uri: &ServerUri,
        wanted: &[Transport],
        trust: &Trust,
    ) -> Result<Vec<Server>, ResolveError> {
        let wanted: Vec<_> = match uri.transport {
            Some(transport) => vec![transport],
            None => {
                let all = order::transports(uri.scheme).into_iter();
                all.filter(|transport| wanted.contains(transport)).collect()
            }
        };
        let (host, places) = match &uri.host {
            Host::Ip(ip) => (ip.to_string(), everywhere(&wanted, uri.port(), &[*ip])),
            Host::Name(name) => (name.clone(), self.places(uri, name, &wanted).await?),
        };
        let server = |place: Place| Server {
            transport: place.transport,
            target: Target {
                host: host.clone(),
                port: place.port,
                addresses: addresses(&place),
                tls: uri.scheme.is_secure().then(|| trust.clone()),
                proxy: None,
            },
        };
        Ok(places.into_iter().take(MAX_SERVERS).map(server).collect())
    }

    async fn places(
        &self,
        uri: &ServerUri,
        name: &str,
        wanted: &[Transport],
    ) -> Result<Vec<Place>, ResolveError> {
        if uri.explicit_port.is_none() {
            if uri.transport.is_none() && uri.scheme.is_turn() {
                let ruled = self.ruled(uri, name, wanted).await?;
                if !ruled.is_empty() {
                    return Ok(ruled);
                }
            }
            let served = self.served(uri, name, wanted).await?;
            if let Some(served) = served {
                return Ok(served);
            }
        }
        let found = self.addresses_of(name).await?;
        Ok(everywhere(wanted, uri.port(), &found))
    }

    /// What NAPTR records lead to.
    async fn ruled(
        &self,
        uri: &ServerUri,
        name: &str,
        wanted: &[Transport],
    ) -> Result<Vec<Place>, ResolveError> {
        let mut open = vec![Next::Rules(absolute(name))];
        let mut places = Vec::new();
        let mut rewrites = 0;
        while let Some(next) = open.pop() {
            match next {
                Next::Rules(_) if rewrites == MAX_REWRITES => {}
                Next::Rules(name) => {
                    rewrites += 1;
                    let rules = self.rules(&name).await?;
                    // A stack: the first one is to be on top.
                    open.extend(order::steps(rules, uri.scheme, wanted).into_iter().rev());
                }
                Next::Services(name, transport) => {
                    places.extend(self.services(&name, transport).await?.unwrap_or_default());
                }
                Next::Addresses(name, transport) => {
                    let found = self.addresses_of(&name).await.unwrap_or_default();
                    let port = uri.scheme.default_port();
                    places.extend(everywhere(&[transport], port, &found));
                }
            }
            if places.len() >= MAX_SERVERS {
                break;
            }
        }
        Ok(places)
    }

    /// What SRV records lead to; `None` without any.
    async fn served(
        &self,
        uri: &ServerUri,
        name: &str,
        wanted: &[Transport],
    ) -> Result<Option<Vec<Place>>, ResolveError> {
        let asked = wanted.iter().map(async |transport| {
            let service = order::service_name(uri.scheme, *transport, name);
            self.services(&service, *transport).await
        });
        let answers: Result<Vec<_>, _> = join_all(asked).await.into_iter().collect();
        let answers = answers?;
        let places: Vec<_> = answers.iter().flatten().flatten().cloned().collect();
        let refused = answers.iter().flatten().any(Vec::is_empty);
        match places.is_empty() {
            true if refused => Err(ResolveError::NoService {
                name: name.to_owned(),
            }),
            true => Ok(None),
            false => Ok(Some(places)),
        }
    }

    /// The places of a service; `None` without SRV records, none of them if they say that
    /// there is no such service.
    async fn services(
        &self,
        name: &str,
        transport: Transport,
    ) -> Result<Option<Vec<Place>>, ResolveError> {
        let records = self.records(name, RecordType::SRV).await?;
        let services = records.iter().filter_map(|record| {
            let RData::SRV(srv) = record else {
                return None;
            };
            Some(Service {
                priority: srv.priority,
                weight: srv.weight,
                port: srv.port,
                target: srv.target.to_ascii(),
            })
        });
        let services: Vec<_> = services.collect();
        if services.is_empty() {
            return Ok(None);
        }
        let sorted = order::sorted(services, crate::entropy::seed()?);
        let places = sorted.into_iter().map(async |service| {
            let found = self.addresses_of(&service.target).await;
            let found = found.inspect_err(|error| tracing::debug!(%error, "an SRV target"));
            everywhere(&[transport], service.port, &found.unwrap_or_default())
        });
        let places = join_all(places).await;
        Ok(Some(places.into_iter().flatten().collect()))
    }

    async fn rules(&self, name: &str) -> Result<Vec<Rule>, ResolveError> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let records = self.records(name, RecordType::NAPTR).await?;
        let rules = records.iter().filter_map(|record| {
            let RData::NAPTR(naptr) = record else {
                return None;
            };
            naptr.regexp.is_empty().then(|| Rule {
                order: naptr.order,
                preference: naptr.preference,
                flags: text(&naptr.flags),
                services: text(&naptr.services),
                replacement: naptr.replacement.to_ascii(),
            })
        });
        Ok(rules.collect())
    }

    /// The records of a name. That there are none, or that nobody answers, is not an error
    /// yet: addresses are asked for next.
    async fn records(&self, name: &str, kind: RecordType) -> Result<Vec<RData>, ResolveError> {
        let resolver = self.inner.as_ref().ok_or(ResolveError::NoNameServers)?;
        let found = match resolver.lookup(name, kind).await {
            Ok(found) => found,
            Err(error) => {
                tracing::debug!(name, %kind, %error, "no records");
                return Ok(Vec::new());
            }
        };
        let records = found.answers().iter().map(|record| record.data.clone());
        Ok(records.take(MAX_RECORDS).collect())
    }

    async fn addresses_of(&self, name: &str) -> Result<Vec<IpAddr>, ResolveError> {
        let resolver = self.inner.as_ref().ok_or(ResolveError::NoNameServers)?;
        // A name without a dot may be one of the machine's own domain.
        let name = if name.contains('.') {
            absolute(name)
        } else {
            name.to_owned()
        };
        let found = resolver.lookup_ip(name.as_str()).await;
        let found = found.map_err(|source| ResolveError::NotFound {
            name: name.trim_end_matches('.').to_owned(),
            source: source.into(),
        })?;
        Ok(found.iter().take(MAX_ADDRESSES).collect())
    }
}

/// The name from the root on, so that no search list is added.
fn absolute(name: &str) -> String {
    format!("{}.", name.trim_end_matches('.'))
}

/// One place for each transport, if there is an address.
fn everywhere(transports: &[Transport], port: u16, found: &[IpAddr]) -> Vec<Place> {
    let place = |transport: &Transport| Place {
        transport: *transport,
        port,
        addresses: found.to_vec(),
    };
    let transports = transports.iter().filter(|_| !found.is_empty());
    transports.map(place).collect()
}

fn addresses(place: &Place) -> Vec<SocketAddr> {
    let addresses = place.addresses.iter();
    addresses
        .map(|ip| SocketAddr::new(*ip, place.port))
        .collect()
}
