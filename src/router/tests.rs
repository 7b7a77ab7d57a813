//! Tests of the router on real files: a golden table of what comes in and who hears it, and the
//! decision against a model of it.

mod golden;
mod model;
mod parked;
mod question;
mod world;

use super::*;

#[test]
fn a_row_id_leads_back_to_the_platform_id() {
    for id in ["c-1", "a:b", "x#y", "42:7"] {
        assert_eq!(platform_id_of(&row_id(id, "main"), "main"), id);
        assert_eq!(platform_id_of(&format!("{}#3", row_id(id, "main")), "main"), id);
    }
    assert_eq!(platform_id_of("from-elsewhere", "main"), "from-elsewhere");
}
