// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Invariants} from "../utils/Invariants.sol";
import {RewardsBase} from "../utils/RewardsBase.sol";
import {Base} from "../utils/Base.sol";
import {EpochsHandler} from "./EpochsHandler.sol";

/// Whatever committees sign, dispute and slash in whatever order: nobody is paid more than was granted, nothing granted
/// is missing, and what is not granted stays in the pot.
contract EpochsInvariant is Invariants, RewardsBase {
    EpochsHandler private deeds;

    function setUp() public override(Base, RewardsBase) {
        super.setUp();
        deeds = new EpochsHandler(token, registry, rewards, tip);
        handler = address(deeds);
        for (uint256 i = 0; i < deeds.NODES(); ++i) {
            address owner = deeds.ownerAt(i);
            fund(owner, 10_000e18);
            bytes32 key = deeds.keyAt(i);
            vm.prank(owner);
            registry.register(1, key, "", 0, 5 * MIN_STAKE);
        }
        fund(stranger, 10_000_000e18);
        vm.prank(stranger);
        token.approve(address(rewards), type(uint256).max);
    }

    /// forge-config: default.invariant.runs = 24
    /// forge-config: default.invariant.depth = 120
    function invariant_everyTokenIsWhereItBelongs() public view {
        vm.assertEq(deeds.wrong(), "", "nothing worked that should not have");
        uint256 total = rewards.cumulativeTotal();
        vm.assertEq(token.balanceOf(address(rewards)) + deeds.paid(), total, "granted is paid, or lies here");
        uint256 owed = rewards.credits(stranger) + rewards.credits(penaltyPool) + rewards.bounties() + deeds.bonds();
        uint256 funded = uint256(rewards.emissionFunded()) + rewards.deliveryFunded();
        uint256 held = token.balanceOf(address(rewards.pot()));
        vm.assertEq(held, funded + owed - total, "the pot holds what is not granted, bonds and bounties");
    }

    /// forge-config: default.invariant.runs = 24
    /// forge-config: default.invariant.depth = 120
    function invariant_nobodyIsPaidMoreThanWasGranted() public view {
        for (uint256 i = 0; i < deeds.NODES(); ++i) {
            (uint128 claimed, uint128 vesting, uint128 released,) =
                rewards.rewardOf(1, deeds.keyAt(i), deeds.ownerAt(i));
            vm.assertLe(released, vesting, "released");
            vm.assertLe(deeds.paidTo(i), claimed, "paid, at once or released or seized");
            vm.assertLe(claimed, deeds.granted(i), "claimed");
        }
    }
}
