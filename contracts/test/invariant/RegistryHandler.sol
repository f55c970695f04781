// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {MusterToken} from "../../src/MusterToken.sol";
import {Registry} from "../../src/Registry.sol";
import {Base} from "../utils/Base.sol";

/// Random deeds of owners, slashers and rewarders.
contract RegistryHandler is Base {
    uint256 public constant NODES = 5;

    uint256 public slashed;
    uint256 public rewarded;
    uint256 public paidIn;
    uint256 public paidOut;
    /// What should not have worked, and did.
    string public wrong;

    /// When, and under which period, a node last asked for something of its stake.
    mapping(bytes32 => uint256) private ready;
    uint64 private clock;
    uint256 private evidence;

    constructor(MusterToken token_, Registry registry_) {
        token = token_;
        registry = registry_;
        clock = uint64(block.timestamp);
    }

    function setUp() public pure override {}

    function keyAt(uint256 i) public pure returns (bytes32) {
        // Not asked of the registry: the call would use up a prank.
        if (kindAt(i) == 4) return bytes32(bytes8("must-app")) | (keccak256(bytes(nameAt(i))) >> 64);
        return keccak256(abi.encode("node", i % NODES));
    }

    /// An app's name; nodes are found nowhere.
    function nameAt(uint256 i) public pure returns (string memory) {
        return kindAt(i) == 4 ? "an app" : "";
    }

    function kindAt(uint256 i) public pure returns (uint8) {
        return uint8(i % NODES % 4 + 1);
    }

    function ownerAt(uint256 i) public pure returns (address) {
        return address(uint160(0xe0000 + i % NODES));
    }

    // ---- deeds ----

    function register(uint256 which, uint128 stake) external {
        Registry.Node memory n = registry.node(keyAt(which));
        stake = uint128(bound(stake, registry.minStake(kindAt(which)), 10 * MIN_STAKE));
        bool allowed = !registry.paused() && (n.status == 0 || (n.status == 3 && n.unbonding == 0));
        vm.prank(ownerAt(which));
        if (allowed) {
            registry.register(kindAt(which), keyAt(which), nameAt(which), 0, stake);
            paidIn += stake;
        } else {
            try registry.register(kindAt(which), keyAt(which), nameAt(which), 0, stake) {
                wrong = "registered twice";
            } catch {}
        }
    }

    /// Somebody tries to take an app's key as a node, and to register another app under it.
    function squat(uint8 kind) external {
        bytes32 app = registry.appId("an app");
        vm.startPrank(ownerAt(0));
        try registry.register(kind % 3 + 1, app, "an app", 0, MIN_STAKE) {
            wrong = "a node took an app's key";
        } catch {}
        try registry.register(4, app, "another app", 0, MIN_STAKE) {
            wrong = "an app took another's key";
        } catch {}
        vm.stopPrank();
    }

    function addStake(uint256 which, uint128 amount) external {
        uint8 status = registry.node(keyAt(which)).status;
        if (registry.paused() || status == 0 || status == 3) return;
        amount = uint128(bound(amount, 1, MIN_STAKE));
        vm.prank(ownerAt(which % NODES + 1));
        registry.addStake(keyAt(which), amount);
        paidIn += amount;
    }

    function requestUnbond(uint256 which, uint128 amount) external {
        Registry.Node memory n = registry.node(keyAt(which));
        uint128 least = registry.minStake(kindAt(which));
        if (n.status == 0 || n.status == 3 || n.stake <= least) return;
        vm.prank(ownerAt(which));
        registry.requestUnbond(keyAt(which), uint128(bound(amount, 1, n.stake - least)));
        ready[keyAt(which)] = block.timestamp + registry.unbondingPeriod();
    }

    function leave(uint256 which) external {
        uint8 status = registry.node(keyAt(which)).status;
        if (status == 0 || status == 3) return;
        vm.prank(ownerAt(which));
        registry.leave(keyAt(which));
        ready[keyAt(which)] = block.timestamp + registry.unbondingPeriod();
    }

    function cancelUnbond(uint256 which) external {
        if (registry.node(keyAt(which)).unbonding == 0) return;
        vm.prank(ownerAt(which));
        registry.cancelUnbond(keyAt(which));
    }

    function withdraw(uint256 which) external {
        Registry.Node memory n = registry.node(keyAt(which));
        uint256 before = token.balanceOf(ownerAt(which));
        vm.prank(ownerAt(which));
        if (n.unbonding != 0 && block.timestamp >= ready[keyAt(which)]) {
            registry.withdraw(keyAt(which));
            if (token.balanceOf(ownerAt(which)) - before != n.unbonding) wrong = "withdrew another sum";
            paidOut += n.unbonding;
        } else {
            try registry.withdraw(keyAt(which)) {
                wrong = "withdrew while unbonding";
            } catch {}
        }
    }

    function reward(uint256 which, uint128 amount) external {
        if (registry.paused() || registry.node(keyAt(which)).status == 0) return;
        amount = uint128(bound(amount, 1, MIN_STAKE));
        vm.prank(rewarder);
        registry.creditReward(keyAt(which), amount);
        rewarded += amount;
    }

    function claimReward(uint256 which) external {
        uint128 amount = registry.node(keyAt(which)).rewards;
        if (amount == 0) return;
        vm.prank(ownerAt(which));
        registry.claimReward(keyAt(which));
        paidOut += amount;
    }

    function slash(uint256 which, uint128 amount) external {
        Registry.Node memory n = registry.node(keyAt(which));
        if (n.status == 0) return;
        amount = uint128(bound(amount, 1, 4 * MIN_STAKE));
        vm.prank(slasher);
        uint128 taken = registry.slash(keyAt(which), amount, bytes32(++evidence));
        uint256 there = uint256(n.rewards) + n.stake + n.unbonding;
        if (taken != (amount < there ? amount : there)) wrong = "slashed another sum";
        slashed += taken;
        uint128 stake = registry.node(keyAt(which)).stake;
        if (n.status == 1 && stake < registry.minStake(n.kind) && registry.node(keyAt(which)).status != 2) {
            wrong = "below the minimum and free";
        }
    }

    function collect() external {
        if (registry.penalties() != 0) registry.collectPenalties();
    }

    function govern(uint8 what, uint64 period) external {
        vm.startPrank(admin);
        if (what % 4 == 0) registry.paused() ? registry.unpause() : registry.pause();
        else if (what % 4 == 1) registry.setMinStake(what % 4 + 1, MIN_STAKE / (1 + what % 5));
        else registry.setUnbondingPeriod(1 + period % 10 days);
        vm.stopPrank();
    }

    function wait(uint32 time) external {
        clock += uint64(time % 4 days);
        vm.warp(clock);
    }
}
