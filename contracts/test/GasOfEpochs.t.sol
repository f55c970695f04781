// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {CheckerLicence} from "../src/CheckerLicence.sol";
import {DrandBeacon} from "../src/DrandBeacon.sol";
import {EpochRewardsBase} from "../src/EpochRewardsBase.sol";
import {RewardsBase} from "./utils/RewardsBase.sol";
import {Rounds} from "./utils/Rounds.sol";

/// What the calls of Checkers and of those they reward cost, as whole transactions; see GasTest. The ring of outcomes
/// has been around: a place that was never used costs 17,100 more, once.
contract GasTestOfEpochs is RewardsBase, Rounds {
    uint256 private constant LEVELS = 20;
    bytes32 private constant CHECKER = keccak256("a checker");

    DrandBeacon private beacon;
    CheckerLicence private licences;

    function setUp() public override {
        super.setUp();
        beacon = quicknet();
        licences = new CheckerLicence(address(token), address(registry), admin, treasury, 1000, 1e18);
        vm.prank(consumer);
        token.approve(address(licences), type(uint256).max);
        vm.prank(provider);
        registry.register(3, CHECKER, "", 0, MIN_STAKE);
        for (uint256 i = 0; i < 8; ++i) {
            finalize(postNext(keccak256("root"), 0));
        }
        // The pool of penalties is not empty, as it never is after the first.
        vm.prank(slasher);
        registry.slash(NODE, 1e18, "first");
    }

    function test_gasOfOutcomes() public {
        pass(1);
        // Most epochs slash nobody.
        bytes memory packed = packPost(tip, following(1, keccak256("rewards"), 0), bits(5));
        uint256 state = vm.snapshotState();
        rewards.post(packed);
        vm.snapshotGasLastCall("epochs post, 5 of 7");
        vm.revertToState(state);
        EpochRewardsBase.Outcome memory o = following(1, keccak256("rewards"), keccak256("slashes"));
        packed = packPost(tip, o, bits(5));
        bytes32 digest = digestOf(tip);
        rewards.post(packed);
        vm.snapshotGasLastCall("epochs post, 5 of 7, with slashes");
        tip.parent = digest;
        tip.sequence += 1;
        tip.outcome = o;
        tip.postedAt = uint64(block.timestamp);
        tip.signers = bits(5);
        vm.warp(tip.postedAt + DISPUTE);
        rewards.finalize(tip);
        vm.snapshotGasLastCall("epochs finalize, with slashes");
        EpochRewardsBase.Posted memory parent = tip;
        EpochRewardsBase.Posted memory wrong = postNext(keccak256("wrong"), 0);
        o = tip.outcome;
        vm.prank(stranger);
        rewards.dispute(wrong);
        vm.snapshotGasLastCall("epochs dispute");
        o.rewardRoot = keccak256("right");
        bytes memory signatures = judged(parent, o, bits(14));
        rewards.resolve(parent, wrong, o, bits(14), signatures);
        vm.snapshotGasLastCall("epochs resolve, 14 of 21");
    }

    function test_gasOfRewards() public {
        EpochRewardsBase.Reward memory r = reward(1, NODE, provider, 100e18);
        bytes32[] memory proof = publish(r, 0);
        rewards.claim(r, proof);
        vm.snapshotGasLastCall("epochs claim, 20 levels, first");
        r.cumulative = 200e18;
        proof = publish(r, 0);
        vm.warp(block.timestamp + 10 days);
        rewards.claim(r, proof);
        vm.snapshotGasLastCall("epochs claim, 20 levels, second");
        for (uint128 i = 3; i < 6; ++i) {
            r.cumulative = i * 100e18;
            proof = publish(r, 0);
            vm.warp(block.timestamp + 10 days);
            rewards.claim(r, proof);
            vm.snapshotGasLastCall("epochs claim, 20 levels, later");
        }
        r.cumulative = 700e18;
        proof = publish(r, 0);
        rewards.claim(r, proof);
        r.cumulative = 800e18;
        proof = publish(r, 0);
        rewards.claim(r, proof);
        rewards.release(1, NODE, provider);
        vm.snapshotGasLastCall("epochs release");
        vm.warp(block.timestamp + 60 days);
        rewards.release(1, NODE, provider);
        vm.snapshotGasLastCall("epochs release again");
    }

    function test_gasOfSlashes() public {
        EpochRewardsBase.Slash memory s =
            EpochRewardsBase.Slash({lastEpoch: tip.outcome.lastEpoch + 1, nodeKey: NODE, amount: 1e18, evidence: "e"});
        (bytes32 root, bytes32[] memory proof) = deep(leafOf(s), 6);
        EpochRewardsBase.Reward memory r = reward(1, NODE, provider, 100e18);
        bytes32[] memory rewardProof = publish(r, root);
        rewards.slash(s, proof);
        vm.snapshotGasLastCall("epochs slash, 6 levels");
        s = EpochRewardsBase.Slash({lastEpoch: tip.outcome.lastEpoch + 1, nodeKey: NODE, amount: 200e18, evidence: "f"});
        (root, proof) = deep(leafOf(s), 6);
        rewardProof = publish(r, root);
        rewards.slashWithReward(s, proof, r, rewardProof);
        vm.snapshotGasLastCall("epochs slash with reward, 6 and 20 levels");
    }

    function test_gasOfTheBeacon() public {
        Round memory r = publishedRound(0);
        beacon.submit(r.round, r.words);
        vm.snapshotGasLastCall("beacon submit");
    }

    function test_gasOfLicences() public {
        vm.startPrank(consumer);
        licences.buy(1, 1e18);
        licences.buy(1, 1e18);
        vm.snapshotGasLastCall("licence buy one");
        licences.buy(10, 1e18);
        vm.snapshotGasLastCall("licence buy ten");
        licences.delegateOne(1, CHECKER);
        licences.delegateOne(2, CHECKER);
        vm.snapshotGasLastCall("licence delegate one");
        uint256[] memory ids = new uint256[](10);
        for (uint256 i = 0; i < 10; ++i) {
            ids[i] = 3 + i;
        }
        licences.delegate(ids, CHECKER);
        vm.snapshotGasLastCall("licence delegate ten");
        licences.undelegateOne(1);
        vm.snapshotGasLastCall("licence undelegate one");
        vm.stopPrank();
    }

    /// Makes a root final under which the leaf is.
    function publish(EpochRewardsBase.Reward memory r, bytes32 slashRoot) private returns (bytes32[] memory proof) {
        bytes32 root;
        (root, proof) = deep(leafOf(r), LEVELS);
        finalize(postNext(root, slashRoot));
    }
}
