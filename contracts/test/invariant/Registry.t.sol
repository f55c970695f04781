// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Registry} from "../../src/Registry.sol";
import {Invariants} from "../utils/Invariants.sol";
import {RegistryHandler} from "./RegistryHandler.sol";

/// Whatever happens in whatever order, the registry holds what it owes, and nothing leaves before its time.
contract RegistryInvariant is Invariants {
    RegistryHandler private deeds;
    uint256 private heldBefore;

    function setUp() public override {
        super.setUp();
        deeds = new RegistryHandler(token, registry);
        handler = address(deeds);
        for (uint256 i = 0; i < deeds.NODES(); ++i) {
            fund(deeds.ownerAt(i), 10_000_000e18);
        }
        fund(rewarder, 10_000_000e18);
        heldBefore = token.balanceOf(address(registry));
    }

    function invariant_everyTokenIsWhereItBelongs() public view {
        uint256 owed = 0;
        for (uint256 i = 0; i < deeds.NODES(); ++i) {
            Registry.Node memory n = registry.node(deeds.keyAt(i));
            owed += uint256(n.stake) + n.unbonding + n.rewards;
            if (n.status == 3) vm.assertEq(n.stake, 0, "who leaves has no stake");
            bool tagged = bytes8(deeds.keyAt(i)) == registry.APP_TAG();
            if (n.status != 0) vm.assertTrue(tagged == (n.kind == 4), "apps have keys of their own");
            bool serves = registry.activeContainerOwner(deeds.keyAt(i)) != address(0);
            vm.assertTrue(serves == (n.kind == 1 && n.status == 1), "only active Containers take leases");
        }
        vm.assertEq(deeds.wrong(), "", "nothing worked that should not have");
        uint256 held = token.balanceOf(address(registry)) - heldBefore - registry.penalties();
        vm.assertEq(held, owed, "the registry holds what it owes, to the last unit");
        uint256 pooled = token.balanceOf(penaltyPool) + registry.penalties();
        vm.assertEq(pooled, deeds.slashed(), "what was slashed is in the pool, or on its way");
        uint256 all = deeds.paidIn() + deeds.rewarded();
        vm.assertEq(held + deeds.slashed() + deeds.paidOut(), all, "nothing appears, nothing is lost");
    }
}
