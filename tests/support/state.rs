//! A mirror's state, as if somebody else had written it.

use mirror_git_to_s3::store::memory::MemoryStore;
use mirror_git_to_s3::store::{Key, ObjectHeaders, Store};
use serde_json::{Map, Value};

pub const STATE: &str = "mirror_state/state.json";

/// Changes the state as by hand: without its checksum.
pub fn change_state(store: &MemoryStore, change: impl FnOnce(&mut Map<String, Value>)) {
    let mut state: Map<_, _> = serde_json::from_slice(&store.bytes(STATE).unwrap()).unwrap();
    state.remove("checksum");
    change(&mut state);
    let headers = ObjectHeaders::changing("application/json");
    store
        .put(&Key::new(STATE).unwrap(), &serde_json::to_vec(&state).unwrap(), headers, None)
        .unwrap();
}

/// The state says that a run has begun to write and not ended: the next one looks what it has left.
pub fn name_a_killed_run(store: &MemoryStore) {
    let killed = serde_json::json!({"run": "h.0-1-2-3-4-5", "begun": "2020-01-01T00:00:00Z"});
    change_state(store, |state| {
        state.insert("writing".into(), vec![killed].into());
    });
}
