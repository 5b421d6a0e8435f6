//! PCP and NAT-PMP.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use postern_wire::natpmp::{self, Answer};
use postern_wire::pcp::{self, Operation, Options, ResultCode};
use postern_wire::transport::Transport;

use super::fake::{Gateway, Row};
use super::personality::{NatPmp, Pcp};

/// The address outside.
const EXTERNAL: Ipv4Addr = Ipv4Addr::new(45, 45, 1, 1);
/// The longest lifetime that is granted, in seconds.
const LONGEST: u32 = 7200;

impl Gateway {
    pub(super) fn control(
        &mut self,
        now: Instant,
        from: IpAddr,
        payload: &[u8],
    ) -> Option<Vec<u8>> {
        match (
            payload.first()?,
            self.personality.pcp,
            self.personality.natpmp,
        ) {
            (0, _, NatPmp::Off) if self.personality.pcp != Pcp::Off => {
                pcp::refusal(payload, ResultCode::UNSUPP_VERSION, 1800, self.epoch(now))
            }
            (0, _, NatPmp::Off) | (2, Pcp::Off, NatPmp::Off) => None,
            (0, ..) => self.natpmp(now, from, payload),
            (2, Pcp::Off, _) => {
                let code = natpmp::ResultCode::UNSUPPORTED_VERSION;
                natpmp::refusal(payload, code, self.epoch(now))
            }
            (2, ..) => self.pcp(now, from, payload),
            _ => None,
        }
    }

    fn natpmp(&mut self, now: Instant, from: IpAddr, payload: &[u8]) -> Option<Vec<u8>> {
        let epoch = self.epoch(now);
        let request = natpmp::Request::parse(payload).ok()?;
        let refuse = |code| natpmp::refusal(payload, code, epoch);
        match (self.personality.natpmp, request) {
            (NatPmp::Refuses, natpmp::Request::Map(_)) => {
                refuse(natpmp::ResultCode::NOT_AUTHORIZED)
            }
            (NatPmp::NoAddress, natpmp::Request::ExternalAddress) => {
                refuse(natpmp::ResultCode::NETWORK_FAILURE)
            }
            (_, natpmp::Request::ExternalAddress) => {
                let answer = Answer::ExternalAddress(EXTERNAL);
                Some(natpmp::Response::granted(epoch, answer).to_bytes())
            }
            (_, natpmp::Request::Map(map)) => {
                let lifetime = map.lifetime.min(LONGEST);
                let wanted = (map.transport, map.internal_port, map.external_port);
                let port = self.grant(now, from, wanted, lifetime, None);
                let answer = Answer::Map(natpmp::Map {
                    external_port: if lifetime == 0 { 0 } else { port },
                    lifetime,
                    ..map
                });
                Some(natpmp::Response::granted(epoch, answer).to_bytes())
            }
        }
    }

    fn pcp(&mut self, now: Instant, from: IpAddr, payload: &[u8]) -> Option<Vec<u8>> {
        let epoch = self.epoch(now);
        let request = match pcp::Request::parse(payload) {
            Ok(request) => request,
            Err(pcp::RequestError::Refused(code)) => return pcp::refusal(payload, code, 30, epoch),
            Err(_) => return None,
        };
        let refuse = |code| pcp::refusal(payload, code, 1800, epoch);
        match (self.personality.pcp, request.operation) {
            (Pcp::Refuses, Operation::Map(_)) => refuse(ResultCode::NOT_AUTHORIZED),
            (Pcp::Mismatch, _) => refuse(ResultCode::ADDRESS_MISMATCH),
            (Pcp::NoAnnounce, Operation::Announce) => refuse(ResultCode::UNSUPP_OPCODE),
            _ if request.client != from => refuse(ResultCode::ADDRESS_MISMATCH),
            (_, Operation::Map(map)) => {
                let Some(transport) = Transport::from_ip_protocol(map.protocol) else {
                    return refuse(ResultCode::UNSUPP_PROTOCOL);
                };
                let lifetime = match request.lifetime {
                    0 => 0,
                    seconds => seconds.clamp(120, LONGEST),
                };
                let wanted = (transport, map.internal_port, map.external_port);
                let port = self.grant(now, from, wanted, lifetime, Some(map.nonce.0));
                let external = if from.is_ipv4() {
                    EXTERNAL.into()
                } else {
                    from
                };
                let granted = Operation::Map(pcp::Map {
                    external_port: if lifetime == 0 {
                        map.external_port
                    } else {
                        port
                    },
                    external_address: external,
                    ..map
                });
                let answer = pcp::Response::granted(lifetime, epoch, granted, Options::default());
                Some(answer.to_bytes())
            }
            (_, operation) => {
                let answer = pcp::Response::granted(0, epoch, operation, Options::default());
                Some(answer.to_bytes())
            }
        }
    }

    /// Makes, renews or deletes the mapping of a port of a client.
    fn grant(
        &mut self,
        now: Instant,
        client: IpAddr,
        (transport, internal_port, external_port): (Transport, u16, u16),
        lifetime: u32,
        nonce: Option<[u8; 12]>,
    ) -> u16 {
        _ = self.rows(now);
        let own = |row: &Row| row.client == client && row.internal_port == internal_port;
        let known = self
            .table
            .iter()
            .find(|((t, _), row)| *t == transport && own(row));
        let known = known.map(|((_, port), _)| *port);
        if lifetime == 0 {
            if let Some(port) = known {
                self.table.remove(&(transport, port));
                self.note_deletion((transport, port));
            }
            return external_port;
        }
        let free = |port: &u16| *port != 0 && !self.table.contains_key(&(transport, *port));
        let wanted = Some(external_port).filter(free);
        let any = || (20_000..30_000).find(free).unwrap_or(30_000);
        let port = known.or(wanted).unwrap_or_else(any);
        let same = self.table.get(&(transport, port));
        let works = same.map_or_else(|| self.passes((transport, port)), |row| row.works);
        let row = Row {
            client,
            internal_port,
            ends: Self::ends(now, lifetime),
            description: String::new(),
            nonce,
            works,
        };
        self.insert((transport, port), row);
        port
    }
}
