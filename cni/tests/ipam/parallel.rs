//! Ours and the reference at the same time in one folder.

use std::collections::BTreeSet;
use std::thread;

use serde_json::json;

use super::bench::{addresses, call, host_local, leased};

/// Half of the callers are ours; 40 want one of 29 addresses.
#[test]
fn no_address_is_given_twice_and_none_is_kept_back() {
    let folder = tempfile::tempdir().unwrap();
    let config = host_local(folder.path(), &json!({ "subnet": "10.1.2.0/27" }), &json!({}));
    let add = |number: usize| {
        let call = call("ADD", &format!("c{number}"));
        if number.is_multiple_of(2) {
            call.ours(&config).map_err(|error| error.msg)
        } else {
            call.theirs(&config)
        }
    };
    let answers: Vec<_> = thread::scope(|scope| {
        let callers: Vec<_> = (0..40).map(|number| scope.spawn(move || add(number))).collect();
        callers.into_iter().map(|caller| caller.join().unwrap()).collect()
    });
    let given: Vec<String> = answers.iter().flatten().flat_map(addresses).collect();
    assert_eq!(given.len(), 29, "all but the gateway's");
    assert_eq!(given.iter().collect::<BTreeSet<_>>().len(), 29, "{given:?}");
    for refused in answers.iter().filter_map(|answer| answer.as_ref().err()) {
        assert!(refused.contains("no IP addresses available in range set: 10.1.2.1-10.1.2.30"), "{refused}");
    }
    assert_eq!(leased(folder.path()).keys().collect::<BTreeSet<_>>(), given.iter().collect());

    // Each gives back what the other has given.
    let delete = |number: usize| {
        let call = call("DEL", &format!("c{number}"));
        if number.is_multiple_of(2) {
            call.theirs(&config).map(|_| ())
        } else {
            call.ours(&config).map(|_| ()).map_err(|error| error.msg)
        }
    };
    thread::scope(|scope| {
        for number in 0..40 {
            scope.spawn(move || assert_eq!(delete(number), Ok(())));
        }
    });
    assert!(leased(folder.path()).is_empty());
}

#[test]
fn what_one_has_given_the_other_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let config = host_local(folder.path(), &json!({ "subnet": "10.1.2.0/24" }), &json!({}));
    let mut given = Vec::new();
    for number in 0..10 {
        let call = call("ADD", &format!("c{number}"));
        let answer =
            if number % 2 == 0 { call.ours(&config).unwrap() } else { call.theirs(&config).unwrap() };
        given.extend(addresses(&answer));
    }
    let expected: Vec<String> = (2..12).map(|last| format!("10.1.2.{last}")).collect();
    assert_eq!(given, expected, "in order, whoever was asked");
    // Either refuses who has an address already.
    assert!(call("ADD", "c1").ours(&config).unwrap_err().msg.contains("duplicate allocation is not allowed"));
    assert!(call("ADD", "c2").theirs(&config).unwrap_err().contains("duplicate allocation is not allowed"));
    call("CHECK", "c1").ours(&config).unwrap();
    call("CHECK", "c2").theirs(&config).unwrap();
}
