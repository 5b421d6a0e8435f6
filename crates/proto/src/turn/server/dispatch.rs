//! From bytes to handlers, and from their results to responses.

use std::time::Instant;

use postern_wire::stun::{
    AttributeType, Builder, Class, ClassicRequest, ErrorCode, Message, Method, TransactionId,
    is_stun,
};
use postern_wire::turn::ChannelData;

use super::allocation::Pending;
use super::reject::Reject;
use super::request::{
    Allocate, Authenticated, ChannelBind, Connect, ConnectionBind, CreatePermission, Refresh,
};
use super::types::{AllocationId, FiveTuple, Forward, Load};
use super::{MAX_QUEUED, Server, Transmit};
use crate::stun::Session;
use crate::{Datagram, Verdict};

/// What [`Server::handle_input`] did with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handled<'a> {
    /// It was for the server, which has dealt with it or dropped it.
    Consumed,
    /// It is neither STUN nor ChannelData, or a response.
    NotMine,
    /// Send this data on.
    Forward(Forward, &'a [u8]),
}

/// What a response needs to know of its request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Caller {
    pub(super) client: FiveTuple,
    pub(super) method: Method,
    pub(super) id: TransactionId,
    pub(super) fingerprint: bool,
}

impl Caller {
    pub(super) fn success(&self) -> Builder {
        Builder::new(Class::Success, self.method, self.id)
    }

    pub(super) const fn pending(&self) -> Pending {
        Pending {
            id: self.id,
            fingerprint: self.fingerprint,
        }
    }
}

/// What a handler gives: a response, or none yet.
pub(super) type Answer = Result<Option<Builder>, Reject>;

impl Server {
    /// Takes a datagram from a client, or one message from a client's stream.
    pub fn handle_input<'a>(
        &mut self,
        now: Instant,
        client: &FiveTuple,
        payload: &'a [u8],
    ) -> Handled<'a> {
        if client.client.0.port() == 0 {
            return Handled::Consumed;
        }
        match payload.first() {
            Some(0x40..=0x7f) => self.on_channel_data(now, client, payload),
            _ if is_stun(payload) => self.on_stun(now, client, payload),
            _ if !client.transport.is_stream() && ClassicRequest::parse(payload).is_some() => {
                self.on_binding(now, client, payload)
            }
            _ => Handled::NotMine,
        }
    }

    fn on_channel_data<'a>(
        &mut self,
        now: Instant,
        client: &FiveTuple,
        payload: &'a [u8],
    ) -> Handled<'a> {
        let Ok(ChannelData { channel, data }) = ChannelData::parse(payload) else {
            return Handled::Consumed;
        };
        match self.client_data(now, client, channel, Load::one(data.len())) {
            Some(forward) => Handled::Forward(forward, data),
            None => Handled::Consumed,
        }
    }

    fn on_stun<'a>(&mut self, now: Instant, client: &FiveTuple, payload: &'a [u8]) -> Handled<'a> {
        let Ok(message) = Message::parse(payload) else {
            return Handled::Consumed;
        };
        if has_fingerprint(&message) && message.verify_fingerprint().is_err() {
            return Handled::NotMine;
        }
        match (message.class(), message.method()) {
            (Class::Success | Class::Error, _) => Handled::NotMine,
            (_, Method::BINDING) => self.on_binding(now, client, payload),
            (Class::Indication, Method::SEND) => self.on_send(now, client, &message),
            (Class::Indication, _) => Handled::Consumed,
            (Class::Request, _) => {
                self.on_request(now, client, &message);
                Handled::Consumed
            }
        }
    }

    fn on_binding<'a>(
        &mut self,
        now: Instant,
        client: &FiveTuple,
        payload: &'a [u8],
    ) -> Handled<'a> {
        let datagram = Datagram {
            local: client.server,
            remote: client.client.0,
            payload,
        };
        self.stats.bindings = self.stats.bindings.wrapping_add(1);
        if client.transport.is_stream() {
            if let Some(payload) = self.binding.answer_on_stream(&datagram) {
                self.send(*client, payload);
            }
            return Handled::Consumed;
        }
        if self.binding.handle_input(now, datagram) == Verdict::NotMine {
            return Handled::NotMine;
        }
        while let Some(transmit) = self.binding.poll_transmit() {
            let mut to = *client;
            to.server = transmit.local;
            to.client.0 = transmit.remote;
            self.send(to, transmit.payload);
        }
        Handled::Consumed
    }

    fn on_request(&mut self, now: Instant, client: &FiveTuple, message: &Message<'_>) {
        let caller = Caller {
            client: *client,
            method: message.method(),
            id: message.transaction_id(),
            fingerprint: has_fingerprint(message),
        };
        if !is_turn(caller.method) {
            return;
        }
        // What has run out is not to be answered for because a timer is late.
        self.handle_timeout(now);
        match self.authenticate(now, client, message) {
            Ok(session) => self.on_authenticated(now, &caller, session, message),
            Err(reject) => self.refuse(now, &caller, &reject, message.as_bytes().len()),
        }
    }

    fn authenticate(
        &self,
        now: Instant,
        client: &FiveTuple,
        message: &Message<'_>,
    ) -> Result<Session, Reject> {
        let known = self
            .table
            .of_client(client)
            .and_then(|id| self.table.get(id))
            .map(|allocation| &allocation.session);
        let session = self
            .auth
            .verify(self.unix(now), client.origin(), message, known)?;
        Ok(session)
    }

    fn on_authenticated(
        &mut self,
        now: Instant,
        caller: &Caller,
        session: Session,
        message: &Message<'_>,
    ) {
        let authenticated = Authenticated {
            session: session.clone(),
            request: *message,
        };
        match self.carry_out(now, caller, authenticated) {
            Ok(Some(response)) => {
                self.stats.answered(caller.method, 0);
                self.answer(caller, &session, response);
            }
            Ok(None) => {}
            Err(reject) => {
                self.stats.answered(caller.method, reject.error.code());
                let response = Builder::new(Class::Error, caller.method, caller.id);
                self.answer(caller, &session, reject.describe(response));
            }
        }
    }

    fn carry_out(
        &mut self,
        now: Instant,
        caller: &Caller,
        request: Authenticated<Message<'_>>,
    ) -> Answer {
        match caller.method {
            Method::ALLOCATE => {
                if let Some(repeated) = self.repeated(caller, &request.session)? {
                    return repeated;
                }
                let from = caller.client.transport;
                let request = request.read(|message| Allocate::parse(message, from))?;
                self.allocate(now, caller, request)
            }
            Method::REFRESH => self.refresh(now, caller, request.read(Refresh::parse)?),
            Method::CREATE_PERMISSION => {
                let request = request.read(CreatePermission::parse)?;
                self.create_permission(now, caller, &request)
            }
            Method::CHANNEL_BIND => {
                let request = request.read(ChannelBind::parse)?;
                self.channel_bind(now, caller, &request)
            }
            Method::CONNECT => self.connect(now, caller, &request.read(Connect::parse)?),
            Method::CONNECTION_BIND => {
                let request = request.read(ConnectionBind::parse)?;
                self.connection_bind(now, caller, &request)
            }
            _ => Err(Reject::BAD_REQUEST),
        }
    }

    /// The allocation that a request is about, and that is its sender's.
    pub(super) fn own(
        &mut self,
        now: Instant,
        caller: &Caller,
        session: &Session,
    ) -> Result<AllocationId, Reject> {
        let id = self
            .table
            .of_client(&caller.client)
            .ok_or(Reject::MISMATCH)?;
        let allocation = self.table.get_mut(id).ok_or(Reject::MISMATCH)?;
        if !allocation.is_live(now) {
            return Err(Reject::MISMATCH);
        }
        if allocation.session.account != session.account {
            return Err(Reject::new(ErrorCode::WRONG_CREDENTIALS));
        }
        if allocation.session != *session {
            // The client has new credentials: late answers are sealed with them too.
            allocation.session = session.clone();
        }
        Ok(id)
    }

    /// The one place where responses to users are sealed.
    fn answer(&mut self, caller: &Caller, session: &Session, response: Builder) {
        let payload = session.seal(response, caller.fingerprint);
        self.send(caller.client, payload);
    }

    /// Answers a request that waited, if its client is still there.
    pub(super) fn answer_late(&mut self, id: AllocationId, pending: Pending, response: Builder) {
        let Some(allocation) = self.table.get(id) else {
            return;
        };
        let client = allocation.client;
        let payload = allocation.session.seal(response, pending.fingerprint);
        self.send(client, payload);
    }

    /// The one place where strangers are answered: with a challenge where one helps, and
    /// only as much as their network has earned.
    fn refuse(&mut self, now: Instant, caller: &Caller, reject: &Reject, received: usize) {
        self.stats.answered(caller.method, reject.error.code());
        let response = Builder::new(Class::Error, caller.method, caller.id);
        let response = reject.describe(response);
        let challenges = [ErrorCode::UNAUTHENTICATED, ErrorCode::STALE_NONCE];
        let response = if challenges.contains(&reject.error) {
            let origin = caller.client.origin();
            self.auth.challenge(self.unix(now), origin, response)
        } else {
            response
        };
        let payload = response.build();
        let source = caller.client.client.0.ip();
        let may_be_forged = caller.client.transport == super::Transport::Udp;
        if !may_be_forged || self.binding.allow(now, source, received, payload.len()) {
            self.send(caller.client, payload);
        }
    }

    pub(super) fn send(&mut self, client: FiveTuple, payload: Vec<u8>) {
        if self.transmits.len() < MAX_QUEUED {
            self.transmits.push_back(Transmit { client, payload });
        }
    }
}

fn has_fingerprint(message: &Message<'_>) -> bool {
    message.contains(AttributeType::FINGERPRINT)
}

const fn is_turn(method: Method) -> bool {
    matches!(
        method,
        Method::ALLOCATE
            | Method::REFRESH
            | Method::CREATE_PERMISSION
            | Method::CHANNEL_BIND
            | Method::CONNECT
            | Method::CONNECTION_BIND
    )
}
