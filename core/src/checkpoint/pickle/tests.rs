//! Deep nests, and functions that are named.

use super::*;

#[test]
fn a_million_nested_values_are_dropped_without_recursion() {
    let deep = 1_000_000;
    let tuples = [&b")"[..], &b"\x85".repeat(deep)].concat();
    assert!(run(&[&tuples[..], b"."].concat()).is_ok());
    // The same nest dropped on the way, and in a pickle that is refused.
    assert!(run(&[&tuples[..], b"0N."].concat()).is_ok());
    assert!(run(&[&tuples[..], b"\xff"].concat()).is_err());
    // Each step recalls the last list and appends a new one to it.
    let step = b"h\x01]q\x01a0";
    let lists = [&b"]q\x01"[..], &step.repeat(deep), b"."].concat();
    assert!(run(&lists).is_ok());
}

#[test]
fn a_function_that_is_named_is_listed_and_not_called() {
    let foreign = |program: &[u8]| {
        let pickled = run(program).unwrap();
        pickled.foreign.into_iter().collect::<Vec<_>>()
    };
    // os.system("true"), by the stack: REDUCE, STACK_GLOBAL and REDUCE, INST, OBJ.
    let system = ["posix.system"];
    assert_eq!(
        foreign(b"cposix\nsystem\nX\x04\x00\x00\x00true\x85R."),
        system
    );
    assert_eq!(
        foreign(b"\x8c\x05posix\x8c\x06system\x93X\x04\x00\x00\x00true\x85R."),
        system
    );
    assert_eq!(foreign(b"(X\x04\x00\x00\x00trueiposix\nsystem\n."), system);
    assert_eq!(foreign(b"(cposix\nsystem\nX\x04\x00\x00\x00trueo."), system);
    // Named, and never called even there.
    assert_eq!(foreign(b"cposix\nsystem\n0N."), system);
    let own = b"ccollections\nOrderedDict\n)R0ctorch\nFloatStorage\n0c__torch__\nM\n.";
    assert_eq!(foreign(own), [""; 0]);
}
