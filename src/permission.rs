//! Who may: where a user stands towards an agent group. Pure, but for [`standing`], which reads.
//!
//! Invariants: an owner is one everywhere; whoever administers a group is its member without a
//! row; somebody the platform does not name is a stranger.

use crate::store::{Result, Role, RoleGrant, Store};

/// A user's place towards one agent group, from far to near.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Standing {
    Stranger,
    /// The group knows them.
    Member,
    /// Administers this group.
    GroupAdmin,
    /// Administers every group.
    GlobalAdmin,
    Owner,
}

impl Standing {
    /// Whether the group counts them among its people.
    pub fn is_known(self) -> bool {
        self != Standing::Stranger
    }

    /// Whether they may use commands that change or reveal what the agent does.
    pub fn may_administer(self) -> bool {
        self >= Standing::GroupAdmin
    }

    /// The best that a user's roles say about a group; `None` when they say nothing.
    pub fn from_roles(roles: &[RoleGrant], agent_group_id: &str) -> Option<Standing> {
        let over = roles.iter().filter_map(|grant| match (grant.role, grant.agent_group_id.as_deref()) {
            (Role::Owner, _) => Some(Standing::Owner),
            (Role::Admin, None) => Some(Standing::GlobalAdmin),
            (Role::Admin, Some(group)) if group == agent_group_id => Some(Standing::GroupAdmin),
            (Role::Admin, Some(_)) => None,
        });
        over.max()
    }
}

/// Where a user stands.
pub fn standing(store: &Store, user_id: Option<&str>, agent_group_id: &str) -> Result<Standing> {
    let Some(user_id) = user_id else { return Ok(Standing::Stranger) };
    if let Some(standing) = Standing::from_roles(&store.roles_of_user(user_id)?, agent_group_id) {
        return Ok(standing);
    }
    Ok(if store.is_member(user_id, agent_group_id)? { Standing::Member } else { Standing::Stranger })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(role: Role, group: Option<&str>) -> RoleGrant {
        RoleGrant {
            user_id: "telegram:1".into(),
            role,
            agent_group_id: group.map(str::to_owned),
            granted_by: None,
            granted_at: jiff::Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn the_best_role_over_the_group_counts() {
        let of = |roles: &[RoleGrant]| Standing::from_roles(roles, "main");
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[grant(Role::Admin, Some("other"))]), None);
        assert_eq!(of(&[grant(Role::Admin, Some("main"))]), Some(Standing::GroupAdmin));
        assert_eq!(of(&[grant(Role::Admin, Some("main")), grant(Role::Admin, None)]), Some(Standing::GlobalAdmin));
        assert_eq!(of(&[grant(Role::Owner, None), grant(Role::Admin, Some("main"))]), Some(Standing::Owner));
    }

    #[test]
    fn members_are_known_and_only_roles_administer() {
        use Standing::*;
        let all = [Stranger, Member, GroupAdmin, GlobalAdmin, Owner];
        assert_eq!(all.map(Standing::may_administer), [false, false, true, true, true]);
        assert_eq!(all.map(Standing::is_known), [false, true, true, true, true]);
    }
}
