// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ServiceFees} from "../src/ServiceFees.sol";
import {Base} from "./utils/Base.sol";

/// The queue of service fees against a plain list of what was earned when.
contract ServiceFeesTest is Base {
    using ServiceFees for ServiceFees.Queue;

    struct Earned {
        uint256 at;
        uint128 amount;
    }

    ServiceFees.Queue private queue;
    Earned[] private earned;

    function setUp() public override {
        vm.warp(START);
    }

    /// Whatever is credited and claimed at whatever times: nothing comes early, nothing is a bucket late, nothing is
    /// lost, and the queue stays short.
    function testFuzz_nothingIsEarlyLateOrLost(uint64 delay, uint32[40] memory waits, uint8[40] memory deeds) public {
        delay = uint64(bound(delay, 0, 90 days));
        uint256 width = delay < 64 ? 1 : (delay + 63) / 64;
        uint256 total = 0;
        uint256 taken = 0;
        for (uint256 i = 0; i < waits.length; ++i) {
            vm.warp(block.timestamp + bound(waits[i], 0, delay / 4 + 2));
            if (deeds[i] % 4 == 0) {
                taken += queue.take(deeds[i] % 3 + 1);
            } else {
                uint128 amount = uint128(deeds[i]) + 1;
                queue.credit(amount, delay);
                earned.push(Earned(block.timestamp, amount));
                total += amount;
            }
            (uint256 due, uint256 pending) = queue.sums();
            vm.assertEq(taken + due + pending, total, "nothing is lost");
            vm.assertLe(taken + due, unlocked(delay), "nothing is early");
            vm.assertGe(taken + due, unlocked(delay + width), "nothing is late");
            vm.assertLe(queue.tail - queue.head, 67, "the queue is short");
        }
        vm.warp(block.timestamp + delay + width);
        vm.assertEq(taken + queue.take(100), total, "all is paid in the end");
    }

    /// A payee who never claims, and earns in every bucket for ten times the delay, has a queue that does not grow.
    function test_theQueueStaysShortForThoseWhoNeverClaim() public {
        uint64 delay = 45 days;
        uint256 longest = 0;
        for (uint256 i = 0; i < 1280; ++i) {
            vm.warp(START + i * delay / 128);
            queue.credit(1, delay);
            if (queue.tail - queue.head > longest) longest = queue.tail - queue.head;
        }
        vm.assertLe(longest, 66, "short");
        vm.assertGt(longest, 60, "and worth the name");
        (uint256 due, uint256 pending) = queue.sums();
        vm.assertEq(due + pending, 1280, "whole");
    }

    function test_creditsOfOneBucketShareAnEntry() public {
        for (uint256 i = 0; i < 100; ++i) {
            queue.credit(1, 45 days);
        }
        vm.assertEq(queue.tail - queue.head, 1, "one entry");
        vm.warp(START + 46 days);
        vm.assertEq(queue.take(1), 100, "with all of them");
    }

    function test_aCutOfTheDelayOvertakesNothing() public {
        queue.credit(1, 45 days);
        vm.warp(START + 1 days);
        queue.credit(2, 0);
        vm.assertEq(queue.take(100), 0, "it waits behind the first");
        vm.warp(START + 46 days);
        vm.assertEq(queue.take(100), 3, "and comes with it");
    }

    function test_takeLooksAtNoMoreEntriesThanAsked() public {
        for (uint256 i = 0; i < 10; ++i) {
            vm.warp(START + i);
            queue.credit(1, 10);
        }
        vm.warp(START + 100);
        vm.assertEq(queue.take(3), 3, "three");
        vm.assertEq(queue.take(0), 0, "none");
        vm.assertEq(queue.take(type(uint256).max), 7, "the rest");
    }

    function unlocked(uint256 wait) private view returns (uint256 sum) {
        for (uint256 i = 0; i < earned.length; ++i) {
            if (earned[i].at + wait <= block.timestamp) sum += earned[i].amount;
        }
    }
}
