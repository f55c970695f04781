// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {LeaseEscrow} from "../src/LeaseEscrow.sol";
import {Base} from "./utils/Base.sol";

/// What the common calls cost, as whole transactions (run with --isolate), written to snapshots/GasTest.json. A
/// figure that changes shows in a diff. The network is used: balances, queues and allowances are not the first ones.
contract GasTest is Base {
    uint128 private constant DEPOSIT = 100e18;

    bytes32[] private ids;

    function setUp() public override {
        super.setUp();
        for (uint256 i = 0; i < 101; ++i) {
            ids.push(openLease(keccak256(abi.encode("gas", i)), DEPOSIT));
        }
        redeem(ids[100], 1e18);
    }

    function test_gasOfTheRegistry() public {
        vm.startPrank(provider);
        registry.register(1, keccak256("gas"), "10.0.0.1:4433", keccak256("hardware"), MIN_STAKE);
        vm.snapshotGasLastCall("registry register");
        bytes32 app = registry.appId("neverball");
        registry.register(4, app, "neverball", keccak256("what is published"), MIN_STAKE);
        vm.snapshotGasLastCall("registry register app");
        registry.update(app, "neverball", keccak256("the next version"));
        vm.snapshotGasLastCall("registry update app");
        registry.addStake(NODE, 1e18);
        vm.snapshotGasLastCall("registry addStake");
        registry.requestUnbond(NODE, 1e18);
        vm.snapshotGasLastCall("registry requestUnbond");
        vm.warp(START + UNBONDING);
        registry.withdraw(NODE);
        vm.snapshotGasLastCall("registry withdraw");
        vm.stopPrank();
        vm.startPrank(rewarder);
        registry.creditReward(NODE, 1e18);
        registry.creditReward(NODE, 1e18);
        vm.snapshotGasLastCall("registry creditReward");
        vm.stopPrank();
        vm.startPrank(slasher);
        registry.slash(NODE, 1e18, "one");
        registry.slash(NODE, 2e18, "two");
        vm.snapshotGasLastCall("registry slash");
        vm.stopPrank();
    }

    function test_gasOfALease() public {
        bytes32 id = openLease(0, DEPOSIT);
        vm.snapshotGasLastCall("escrow open");
        vm.prank(consumer);
        escrow.topUp(id, 1e18);
        vm.snapshotGasLastCall("escrow topUp");
        redeem(id, 10e18);
        vm.snapshotGasLastCall("escrow redeem first");
        redeem(id, 20e18);
        vm.snapshotGasLastCall("escrow redeem again");
        vm.prank(consumer);
        escrow.closeByConsumer(id);
        vm.snapshotGasLastCall("escrow closeByConsumer");
        vm.warp(START + WINDOW);
        escrow.finalize(id);
        vm.snapshotGasLastCall("escrow finalize");
        vm.prank(provider);
        escrow.closeByContainer(ids[0]);
        vm.snapshotGasLastCall("escrow closeByContainer");
        vm.warp(START + 2 * DELAY);
        escrow.claimServiceFee(provider, 100);
        vm.snapshotGasLastCall("escrow claimServiceFee");
    }

    function test_gasOfBatches() public {
        LeaseEscrow.OpenParams[] memory batch = new LeaseEscrow.OpenParams[](100);
        bytes memory packed;
        for (uint256 i = 0; i < 100; ++i) {
            batch[i] = params(bytes32(i), DEPOSIT);
            packed = bytes.concat(packed, entry(ids[i], 10e18));
        }
        vm.prank(consumer);
        escrow.openBatch(batch);
        vm.snapshotGasLastCall("escrow openBatch of 100");
        escrow.redeemBatch(packed);
        vm.snapshotGasLastCall("escrow redeemBatch of 100");
        packed = "";
        for (uint256 i = 0; i < 100; ++i) {
            packed = bytes.concat(packed, entry(ids[i], 20e18));
        }
        vm.prank(provider);
        escrow.settleBatch(packed);
        vm.snapshotGasLastCall("escrow settleBatch of 100");
    }
}
