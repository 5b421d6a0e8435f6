//! Components of the data stream (RFC 8445 section 2): each has hosts, pairs and a selected path of its
//! own, in one check list.

use std::collections::BTreeMap;

use super::agent::Agent;
use super::config::MAX_COMPONENTS;
use super::nomination::Nomination;
use super::pair::{Pair, PairKey, Path};

/// How far each component has come.
#[derive(Debug)]
pub(super) struct Components(BTreeMap<u16, Progress>);

#[derive(Debug, Default)]
pub(super) struct Progress {
    pub(super) selected: Option<PairKey>,
    pub(super) nomination: Nomination,
}

impl Components {
    /// The components 1 to `count`.
    pub(super) fn new(count: u16) -> Self {
        let all = 1..=count.clamp(1, MAX_COMPONENTS);
        Self(all.map(|id| (id, Progress::default())).collect())
    }

    /// Whether there is one only.
    pub(super) fn is_single(&self) -> bool {
        self.0.len() == 1
    }

    /// Begins anew.
    pub(super) fn restart(&mut self) {
        for progress in self.0.values_mut() {
            *progress = Progress::default();
        }
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = u16> + use<> {
        let last = self.0.keys().next_back();
        1..=last.copied().unwrap_or(1)
    }

    pub(super) fn get(&self, component: u16) -> Option<&Progress> {
        self.0.get(&component)
    }

    pub(super) fn get_mut(&mut self, component: u16) -> Option<&mut Progress> {
        self.0.get_mut(&component)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Progress> {
        self.0.values_mut()
    }

    /// Whether the pair is being nominated.
    pub(super) fn is_pending(&self, key: PairKey) -> bool {
        let mut all = self.0.values();
        all.any(|progress| progress.nomination.is_pending(key))
    }

    /// The pairs that are selected.
    pub(super) fn selected(&self) -> impl Iterator<Item = PairKey> {
        let all = self.0.values();
        all.filter_map(|progress| progress.selected)
    }
}

/// For the user.
impl Agent {
    /// The selected path of a component; [`selected`](Self::selected) is that of component 1.
    pub fn selected_of(&self, component: u16) -> Option<Path> {
        let key = self.in_use(component)?;
        let path = self
            .list
            .get(key)
            .filter(|_| self.selected_on(component).is_some());
        path.map(Pair::path).or_else(|| self.kept_path(key))
    }

    /// The component that a path belongs to; 1 if the path is unknown.
    pub fn component_of(&self, path: &Path) -> u16 {
        self.component(PairKey::new(path.local, path.remote))
    }

    /// Whether every component has a selected path that the peer has candidates for: one of which
    /// it has told none, and will tell none, does not count.
    pub fn is_connected(&self) -> bool {
        self.wanted().all(|id| self.selected_on(id).is_some())
    }
}

/// For the agent.
impl Agent {
    pub(super) fn component(&self, key: PairKey) -> u16 {
        let pair = self.list.get(key).or_else(|| self.kept_pair(key));
        pair.map_or(1, |pair| pair.component)
    }

    pub(super) fn selected_on(&self, component: u16) -> Option<PairKey> {
        self.components.get(component)?.selected
    }

    /// The components that the peer may have candidates for.
    pub(super) fn wanted(&self) -> impl Iterator<Item = u16> {
        self.components.ids().filter(|id| {
            let mut remotes = self.remotes.iter();
            *id == 1 || !self.remote_ended || remotes.any(|remote| remote.component == *id)
        })
    }

    /// Whether a direct pair over UDP is selected for each component: what is left to look for is a
    /// relay behind it. With a relayed one, or none, the agent goes on to look for a direct pair.
    pub(super) fn is_settled(&self) -> bool {
        self.wanted().all(|id| self.is_settled_on(id))
    }

    pub(super) fn is_settled_on(&self, component: u16) -> bool {
        let selected = self.selected_on(component);
        let pair = selected.and_then(|key| self.list.get(key));
        pair.is_some_and(Pair::is_direct)
    }

    /// Whether the component has a path that works, be it of the session before.
    pub(super) fn has_valid(&self, component: u16) -> bool {
        self.list.has_valid(component) || self.has_kept(component)
    }
}
