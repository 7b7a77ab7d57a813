//! Questions: answered once.

use super::*;

#[test]
fn a_question_is_answered_once_and_expires() {
    let home = Home::furnished();
    let store = &home.store;
    store.put_question(&question("q1")).unwrap();
    store.put_question(&Question { expires_at: Some(later(10)), ..question("q2") }).unwrap();
    assert_eq!(store.take_question("q1").unwrap(), Some(question("q1")));
    assert_eq!(store.take_question("q1").unwrap(), None);
    assert_eq!(store.expired_questions(later(9)).unwrap(), []);
    assert_eq!(store.expired_questions(later(10)).unwrap().len(), 1);
}
