//! Who claims what. A cluster has as many claims as MACs and addresses, and almost none is contested: so they are one
//! sorted list.

use std::cmp::Reverse;

use weft_encap::MacAddr;

use super::view::Presence;

/// What decides between claims of one thing: the greatest has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank<'v> {
    /// Whether it was known before the store went back: what only came back with it may have been over by then.
    pub(super) was_known: bool,
    pub(super) presence: Presence,
    /// Whether the store says so too: what is of before it went back yields to what was claimed since.
    pub(super) is_sure: bool,
    /// Whether it is the claimant's own, and not only seen there.
    pub(super) own: bool,
    /// The revision at which it was claimed.
    pub(super) revision: i64,
    /// The claimant.
    pub(super) name: Reverse<&'v str>,
    /// Of the endpoint that claims; zero of a node. A node may have an address twice.
    pub(super) mac: MacAddr,
}

/// One claim.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claim<'v, K, T> {
    /// What is claimed.
    pub(super) what: K,
    rank: Rank<'v>,
    /// By what.
    pub(super) by: &'v T,
}

impl<'v, K, T> Claim<'v, K, T> {
    /// The claimant.
    pub(super) fn name(&self) -> &'v str {
        self.rank.name.0
    }
}

/// All claims of one kind.
#[derive(Clone, Debug)]
pub(super) struct Claims<'v, K, T>(Vec<Claim<'v, K, T>>);

impl<'v, K: Ord + Copy, T> Claims<'v, K, T> {
    /// Of these, which are counted first and sorted in place: neither takes memory that is not used.
    pub(super) fn of(claims: impl Iterator<Item = (K, Rank<'v>, &'v T)> + Clone) -> Self {
        let mut all = Vec::with_capacity(claims.clone().count());
        all.extend(claims.map(|(what, rank, by)| Claim { what, rank, by }));
        all.sort_unstable_by_key(|claim| (claim.what, claim.rank));
        Self(all)
    }

    /// Each thing with who has it, in order.
    pub(super) fn winners(&self) -> impl Iterator<Item = &Claim<'v, K, T>> {
        self.0.chunk_by(|one, next| one.what == next.what).filter_map(<[_]>::last)
    }

    /// Who has one thing.
    pub(super) fn winner(&self, what: K) -> Option<&Claim<'v, K, T>> {
        let end = self.0.partition_point(|claim| claim.what <= what);
        self.0[..end].last().filter(|claim| claim.what == what)
    }

    /// Each thing that several claim, with their names, the winner's first.
    pub(super) fn contested(&self) -> impl Iterator<Item = (K, Vec<&'v str>)> {
        self.0.chunk_by(|one, next| one.what == next.what).filter_map(|claims| {
            let mut names: Vec<_> = claims.iter().rev().map(Claim::name).collect();
            names.dedup();
            (names.len() > 1).then(|| (claims[0].what, names))
        })
    }
}
