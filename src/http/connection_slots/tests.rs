//! Tests the slots of connections.

use super::*;

const ANN: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
const BOB: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

fn places(budgets: AddressBudgets) -> Arc<ConnectionSlots> {
    ConnectionSlots::new(budgets, TrustedProxies::default())
}

fn is_evicted(slot: &ConnectionSlot) -> bool {
    *slot.hung_up.borrow()
}

#[tokio::test]
async fn at_the_cap_the_stranger_goes_that_is_idle_for_longest() {
    let places = places(AddressBudgets::unlimited(3));
    let [first, second, third] = [ANN; 3].map(|peer| places.enter(peer).unwrap());
    first.begins();
    first.idles();
    let _fourth = places.enter(BOB).unwrap();
    assert_eq!([&first, &second, &third].map(|slot| is_evicted(slot)), [false, true, false]);
    assert_eq!(places.inside().open, 3);
    drop((first, second, third));
    let inside = places.inside();
    assert_eq!((inside.open, inside.entries.len()), (1, 1));
    // Otherwise the slot would wait for the lock when it is dropped.
    drop(inside);
}

#[tokio::test]
async fn strangers_go_before_users_and_users_before_services() {
    let places = places(AddressBudgets::unlimited(3));
    let enter = |standing| {
        let slot = places.enter(ANN).unwrap();
        slot.begins();
        slot.vouch(standing);
        slot.idles();
        slot
    };
    let (service, user, stranger) = (enter(SlotClass::Service), enter(SlotClass::User), enter(SlotClass::Stranger));
    let gone = || [&service, &user, &stranger].map(|slot| is_evicted(slot));
    // Busy connections stay, whatever their class.
    let newcomer = || {
        let slot = places.enter(BOB).unwrap();
        slot.begins();
        slot
    };
    let _fourth = newcomer();
    assert_eq!(gone(), [false, false, true]);
    let _fifth = newcomer();
    assert_eq!(gone(), [false, true, true]);
    let _sixth = newcomer();
    assert_eq!(gone(), [true, true, true]);
    assert!(places.enter(BOB).is_none(), "nobody is idle");
}

#[tokio::test]
async fn the_last_places_are_reserved() {
    let places = places(AddressBudgets { reserved: 1, ..AddressBudgets::unlimited(1) });
    let first = places.enter(ANN).unwrap();
    first.begins();
    let second = places.enter(ANN).unwrap();
    second.begins();
    assert_eq!([first.is_reserved(), second.is_reserved()], [false, true]);
    assert!(places.enter(ANN).is_none());
    drop((first, second));
    assert!(!places.enter(ANN).unwrap().is_reserved());
}

#[tokio::test]
async fn an_address_makes_room_for_its_own_newcomers_and_costs_no_other_address_a_place() {
    let places = places(AddressBudgets { address_connections: 2, ..AddressBudgets::unlimited(10) });
    let bobs = places.enter(BOB).unwrap();
    let anns: Vec<_> = (0..5).map(|_| places.enter(ANN).unwrap()).collect();
    assert_eq!(anns.iter().map(|slot| is_evicted(slot)).collect::<Vec<_>>(), [true, true, true, false, false]);
    assert!(!is_evicted(&bobs));
    anns[3].begins();
    anns[4].begins();
    assert!(places.enter(ANN).is_none(), "both of ann's are at work");
    anns[3].vouch(SlotClass::User);
    assert!(places.enter(ANN).is_some(), "a user's connection does not count");
}

#[tokio::test]
async fn new_connections_and_requests_have_a_rate_that_those_who_sign_in_do_not_use_up() {
    let places = places(AddressBudgets { address_handshakes: 1, address_requests: 1, ..AddressBudgets::unlimited(2) });
    for _ in 0..10 {
        places.enter(ANN).unwrap().vouch(SlotClass::User);
    }
    let slot = places.enter(ANN).unwrap();
    drop(places.enter(ANN).unwrap());
    assert!(places.enter(ANN).is_none() && places.enter(BOB).is_some());
    let ann = ClientAddress::of(ANN);
    let served = (0..20).filter(|_| slot.take_request(ann)).count();
    assert_eq!(served, REQUEST_BURST as usize);
    slot.give_back_request(ann);
    assert!(slot.take_request(ann) && !slot.take_request(ann));
    assert!(slot.take_request(ClientAddress::of(BOB)));
}

#[tokio::test]
async fn a_proxy_has_no_budget_and_its_clients_have_each_their_own() {
    let budgets = AddressBudgets { address_connections: 1, ..AddressBudgets::unlimited(10) };
    let places = ConnectionSlots::new(budgets, TrustedProxies::new(vec![(BOB, 32)]));
    let held: Vec<_> = (0..4).map(|_| places.enter(BOB).unwrap()).collect();
    assert!(held.iter().all(|slot| !is_evicted(slot)));
    held[0].comes_from(ANN).unwrap();
    held[0].begins();
    assert!(held[1].comes_from(ANN).is_err());
    drop(held);
    assert_eq!(places.inside().addresses[&ClientAddress::of(ANN)].strangers, 0);
}
