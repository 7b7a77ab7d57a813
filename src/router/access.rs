//! Whether a sender may be heard by an agent: the chat's policy for strangers, then the wiring's
//! scope. Pure.

use super::judge::Why;
use crate::permission::Standing;
use crate::store::{SenderScope, UnknownSenderPolicy};

/// Whether the sender may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Granted,
    Refused(Why),
}

/// Somebody the group knows passes; a stranger needs a public chat and a wiring for everybody.
pub fn access(policy: UnknownSenderPolicy, scope: SenderScope, standing: Standing) -> Access {
    if standing.is_known() {
        return Access::Granted;
    }
    match (policy, scope) {
        (UnknownSenderPolicy::Strict, _) => Access::Refused(Why::SenderUnknown),
        (UnknownSenderPolicy::RequestApproval, _) => Access::Refused(Why::SenderAwaitsApproval),
        (UnknownSenderPolicy::Public, SenderScope::Known) => Access::Refused(Why::SenderNotMember),
        (UnknownSenderPolicy::Public, SenderScope::All) => Access::Granted,
    }
}
