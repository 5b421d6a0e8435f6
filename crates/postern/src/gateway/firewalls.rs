//! Beside other firewalls: an accept in our table does not overrule a drop in another one, so
//! they have to know our mark.

use std::io::ErrorKind;

use super::kernel::{Kernel, KernelError};
use super::rules::{TABLE, knowing};
use crate::os::netlink::{Batch, ForwardChain, Sought};

/// A firewall into whose rules the gateway may put one of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Firewall {
    /// firewalld, with its nftables back end.
    Firewalld,
    /// OpenWrt's firewall from version 22.03 on.
    Fw4,
    /// Ubuntu's, on top of iptables.
    Ufw,
    /// The chain FORWARD of iptables, over nftables or as it was before, docker's included.
    Iptables,
}

impl Firewall {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Firewalld, Self::Fw4, Self::Ufw, Self::Iptables];

    /// Its name in options and files.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Firewalld => "firewalld",
            Self::Fw4 => "fw4",
            Self::Ufw => "ufw",
            Self::Iptables => "iptables",
        }
    }

    /// The firewall of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.as_str() == name)
    }

    /// The table and the chain that decide about what is forwarded.
    const fn place(self) -> (&'static str, &'static str) {
        match self {
            Self::Firewalld => ("firewalld", "filter_FORWARD"),
            Self::Fw4 => ("fw4", "forward"),
            Self::Ufw | Self::Iptables => ("filter", "FORWARD"),
        }
    }
}

/// What rules of ours in the tables of others are known by.
pub(super) const COMMENT: &str = "postern gateway";

/// How it stands with the other firewalls.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Others {
    /// Chains that drop what we let in.
    pub(super) obstacles: Vec<String>,
    /// Chains that have a rule of ours.
    pub(super) integrated: Vec<String>,
}

impl Kernel {
    /// Looks at the chains of others, puts the rule that knows our mark into those of
    /// `firewalls` that lack it, and takes it out of all others. `None` if nothing has changed
    /// since the last call.
    pub(super) fn look_at_others(
        &mut self,
        firewalls: &[Firewall],
        mark: u32,
    ) -> Result<Option<Others>, KernelError> {
        if !std::mem::take(&mut self.others_changed) {
            return Ok(None);
        }
        let looked = self.integrate(firewalls, mark);
        // Somebody is changing them at this moment.
        self.others_changed |= looked.is_err();
        looked.map(Some)
    }

    /// Takes our rule out of all chains.
    pub(super) fn withdraw(&mut self) -> Result<(), KernelError> {
        self.others_changed = false;
        self.integrate(&[], 0).map(drop)
    }

    fn integrate(&mut self, firewalls: &[Firewall], mark: u32) -> Result<Others, KernelError> {
        let comment = COMMENT;
        let chains = self.netlink.forward_chains(Sought { mark, comment })?;
        let mut others = Others::default();
        for chain in chains.iter().filter(|chain| chain.table != TABLE) {
            let wanted = firewalls.iter().any(|firewall| {
                let (table, name) = firewall.place();
                chain.is(table, name)
            });
            let has = self.settle(chain, wanted, mark)?;
            if has {
                others.integrated.push(chain.describe());
            }
            if chain.drops && !has && !chain.knows_mark {
                others.obstacles.push(chain.describe());
            }
        }
        Ok(others)
    }

    /// Brings our rule into a chain, or out of it; whether it is there.
    fn settle(
        &mut self,
        chain: &ForwardChain,
        wanted: bool,
        mark: u32,
    ) -> Result<bool, KernelError> {
        if wanted == chain.has_own() && wanted == chain.has_fitting() {
            return Ok(wanted);
        }
        let mut batch = Batch::new();
        chain.remove_own(&mut batch);
        if wanted {
            chain.insert(&mut batch, COMMENT, &knowing(mark));
        }
        match self.netlink.commit(batch) {
            Ok(()) => Ok(wanted),
            // A table that belongs to a process is changed by nobody else.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                let chain = chain.describe();
                tracing::warn!("{chain} belongs to another program and cannot be changed");
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}
