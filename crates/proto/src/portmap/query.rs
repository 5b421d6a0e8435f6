//! What callers ask of gateways besides mappings.

use std::time::Instant;

use postern_wire::upnp::igd::Entry;
use postern_wire::upnp::soap::{Arguments, Reply};

use super::choice::Route;
use super::client::{Client, Purpose};
use super::soap::CALL_TIMEOUT;
use super::types::{Event, Failure, Protocol, ServiceAt, Survey};

/// The most entries of a gateway's table that are read: there are tables without an end.
pub const MAX_ENTRIES: usize = 1000;

/// What is asked for and not answered yet.
#[derive(Debug, Default)]
pub(super) struct Queries {
    survey: bool,
    chosen: bool,
    list: Option<Listing>,
    calls: Vec<(String, Arguments)>,
}

/// A table, as far as it is read.
#[derive(Debug, Default)]
struct Listing {
    entries: Vec<Entry>,
    route: Option<Route>,
    /// Which of the gateway's services is asked.
    service: usize,
    retried: bool,
    /// Whether any service has answered.
    heard: bool,
}

impl Client {
    /// Asks who is there. [`Event::Surveyed`] follows when everybody has had time to answer,
    /// at most 2.7 s after the client was made, and at once if that was longer ago.
    pub fn survey(&mut self, now: Instant) {
        self.queries.survey = true;
        self.choose(now);
    }

    /// Asks for the UPnP gateways, without waiting for all of them. [`Event::Chosen`] follows.
    pub fn choose_gateway(&mut self, now: Instant) {
        self.queries.chosen = true;
        self.choose(now);
    }

    /// Calls an action of a service of a gateway that was found. [`Event::Called`] follows, in
    /// order.
    pub fn call_service(
        &mut self,
        now: Instant,
        service: &ServiceAt,
        action: &str,
        arguments: Arguments,
    ) {
        let mut described = self.devices.iter().flat_map(|device| &device.described);
        if !described.any(|known| known == service) {
            let failure = Err(Failure::Unsupported);
            return self.events.push_back(Event::Called(failure));
        }
        self.call(
            now,
            (&service.service_type, &service.control),
            (action, arguments),
            CALL_TIMEOUT,
            Purpose::Call,
        );
    }

    /// Asks for the table of the best UPnP gateway, unless that is under way.
    /// [`Event::Listed`] follows.
    pub fn list(&mut self, now: Instant) {
        self.queries.list.get_or_insert_default();
        self.choose(now);
    }

    /// Calls an action of the best UPnP gateway. [`Event::Called`] follows, in order.
    pub fn call_action(&mut self, now: Instant, action: &str, arguments: Arguments) {
        self.queries.calls.push((action.to_owned(), arguments));
        self.choose(now);
    }

    /// Answers who can be answered, asks where there is somebody to be asked.
    pub(super) fn answer_queries(&mut self, now: Instant) {
        let hopeless = self.is_hopeless();
        if self.queries.survey && hopeless {
            self.queries.survey = false;
            let found = self.found();
            self.events.push_back(Event::Surveyed(Survey { found }));
        }
        let upnp = self
            .routes()
            .into_iter()
            .find(|route| matches!(route, Route::Upnp(_)));
        match upnp {
            Some(route) if self.may_take(route) => self.ask(now, route),
            None if hopeless => self.answer_with_nothing(),
            Some(_) | None => {}
        }
    }

    fn ask(&mut self, now: Instant, route: Route) {
        self.answer_chosen();
        if let Some(list) = &mut self.queries.list
            && list.route.is_none()
        {
            list.route = Some(route);
            self.ask_for_entry(now);
        }
        let service = self
            .service(route, 0)
            .map(|s| (s.urn.clone(), s.control.clone()));
        let Some((urn, control)) = service else {
            return;
        };
        for (action, arguments) in std::mem::take(&mut self.queries.calls) {
            self.call(
                now,
                (&urn, &control),
                (&action, arguments),
                CALL_TIMEOUT,
                Purpose::Call,
            );
        }
    }

    fn answer_chosen(&mut self) {
        if std::mem::take(&mut self.queries.chosen) {
            let mut found = self.found();
            found.retain(|found| found.protocol == Protocol::Upnp);
            self.events.push_back(Event::Chosen(found));
        }
    }

    fn answer_with_nothing(&mut self) {
        self.answer_chosen();
        if self.queries.list.take().is_some() {
            self.events
                .push_back(Event::Listed(Err(Failure::NoGateway)));
        }
        for _ in std::mem::take(&mut self.queries.calls) {
            self.events
                .push_back(Event::Called(Err(Failure::NoGateway)));
        }
    }

    fn ask_for_entry(&mut self, now: Instant) {
        let Some(list) = &self.queries.list else {
            return;
        };
        let arguments = Arguments::default().with("NewPortMappingIndex", list.entries.len());
        let service = list
            .route
            .and_then(|route| self.service(route, list.service));
        if let Some((urn, control)) = service.map(|s| (s.urn.clone(), s.control.clone())) {
            let question = ("GetGenericPortMappingEntry", arguments);
            self.call(now, (&urn, &control), question, CALL_TIMEOUT, Purpose::List);
        }
    }

    /// An entry of the table, or its end. 713 and 714 are the end, 402 and 501 are to some,
    /// and an answer without a word in it to others.
    pub(super) fn on_entry_of_list(
        &mut self,
        now: Instant,
        reply: Option<Reply>,
        status: Option<u16>,
    ) {
        let Some(list) = &mut self.queries.list else {
            return;
        };
        let entry = match &reply {
            Some(Reply::Done(arguments)) => Entry::from_answer(arguments),
            Some(Reply::Fault(_)) | None => None,
        };
        let silent = reply.is_none() && status.is_none();
        list.heard |= !silent;
        match entry {
            // A table that repeats itself has no end.
            Some(entry)
                if list.entries.last() != Some(&entry) && list.entries.len() < MAX_ENTRIES =>
            {
                list.entries.push(entry);
                list.retried = false;
                self.ask_for_entry(now);
            }
            None if silent && !list.retried => {
                list.retried = true;
                self.ask_for_entry(now);
            }
            Some(_) | None => self.on_end_of_list(now),
        }
    }

    /// A service that does not work says "the end" as an empty one does: the gateway's next
    /// service may have a table.
    fn on_end_of_list(&mut self, now: Instant) {
        let Some(mut list) = self.queries.list.take() else {
            return;
        };
        let next = list.service.saturating_add(1);
        let more = list.route.and_then(|route| self.service(route, next));
        if list.entries.is_empty() && more.is_some() {
            list.service = next;
            list.retried = false;
            self.queries.list = Some(list);
            return self.ask_for_entry(now);
        }
        let result = if list.heard {
            Ok(list.entries)
        } else {
            Err(Failure::Silent)
        };
        self.events.push_back(Event::Listed(result));
    }

    pub(super) fn on_called(&mut self, reply: Option<Reply>) {
        let result = reply.ok_or(Failure::Silent);
        self.events.push_back(Event::Called(result));
    }
}
