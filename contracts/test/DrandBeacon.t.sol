// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {DrandBeacon} from "../src/DrandBeacon.sol";
import {Base} from "./utils/Base.sol";
import {Rounds} from "./utils/Rounds.sol";

contract DrandBeaconTest is Base, Rounds {
    DrandBeacon private beacon;

    event RoundVerified(uint64 indexed round, bytes32 randomness);

    function setUp() public override {
        beacon = quicknet();
    }

    function test_publishedRoundsAreRight() public {
        for (uint256 i = 0; i < ROUNDS; ++i) {
            Round memory r = publishedRound(i);
            vm.assertEq(beacon.verify(r.round, r.words), r.randomness, "randomness");
            vm.assertFalse(beacon.known(r.round, r.randomness), "not submitted yet");
            vm.expectEmit(address(beacon));
            emit RoundVerified(r.round, r.randomness);
            vm.assertEq(beacon.submit(r.round, r.words), r.randomness, "randomness");
            vm.assertTrue(beacon.known(r.round, r.randomness), "known");
            vm.assertFalse(beacon.known(r.round, ~r.randomness), "another randomness");
            vm.assertFalse(beacon.known(r.round + 64, r.randomness), "another round");
        }
    }

    function test_aRoundOfTheSamePlaceTakesTheSlot() public {
        // 1000 and 1064 share a place; 1002 does not.
        Round memory first = publishedRound(1);
        Round memory other = publishedRound(3);
        beacon.submit(first.round, first.words);
        beacon.submit(other.round, other.words);
        vm.assertTrue(beacon.known(first.round, first.randomness), "kept");
    }

    function test_aSignatureServesItsRoundOnly() public {
        Round memory a = publishedRound(1);
        Round memory b = publishedRound(2);
        refused(b.round, a.words);
        refused(0, a.words);
        refused(type(uint64).max, a.words);
    }

    function test_theOtherPointOfTheSameXIsRefused() public {
        Round memory r = publishedRound(0);
        // p - y.
        uint256 low = 0x64774b84f38512bf6730d2a0f6b0f6241eabfffeb153ffffb9feffffffffaaab;
        uint256 high = 0x1a0111ea397fe69a4b1ba7b6434bacd7;
        unchecked {
            uint256 borrow = r.words[3] > low ? 1 : 0;
            (r.words[2], r.words[3]) = (high - r.words[2] - borrow, low - r.words[3]);
        }
        refused(r.round, r.words);
    }

    function test_whatIsNoCanonicalPointIsRefused() public {
        Round memory r = publishedRound(0);
        uint256[4] memory w;
        refused(r.round, w);
        w = r.words;
        w[0] |= 1 << 255;
        refused(r.round, w);
        w = r.words;
        w[1] += 1;
        refused(r.round, w);
        // x + p is the same number, and another writing.
        w = r.words;
        unchecked {
            w[1] += 0x64774b84f38512bf6730d2a0f6b0f6241eabfffeb153ffffb9feffffffffaaab;
            w[0] += 0x1a0111ea397fe69a4b1ba7b6434bacd7 + (w[1] < r.words[1] ? 1 : 0);
        }
        refused(r.round, w);
        // (0, 2) lies on the curve, and not in the subgroup.
        uint256[4] memory outside = [uint256(0), 0, 0, 2];
        refused(r.round, outside);
    }

    function testFuzz_nothingElseIsAccepted(uint256 word, uint256 bit, uint64 round) public {
        Round memory r = publishedRound(word % ROUNDS);
        r.words[bit % 4] ^= 1 << (bit % 256);
        refused(r.round, r.words);
        r = publishedRound(word % ROUNDS);
        if (round == r.round) ++round;
        refused(round, r.words);
    }

    function test_aBadKeyIsRefused() public {
        uint256[8] memory key;
        vm.expectRevert(DrandBeacon.BadKey.selector);
        new DrandBeacon(key, 1, 1);
        key = quicknetKey();
        key[1] ^= 1;
        vm.expectRevert(DrandBeacon.BadKey.selector);
        new DrandBeacon(key, 1, 1);
        key = quicknetKey();
        vm.expectRevert(DrandBeacon.OutOfBounds.selector);
        new DrandBeacon(key, 1, 0);
    }

    function test_anotherKeyIsAnotherBeacon() public {
        Round memory r = publishedRound(0);
        // The generator of G2: the key of a beacon whose secret is one.
        uint256[8] memory key = [
            uint256(0x00000000000000000000000000000000024aa2b2f08f0a91260805272dc51051),
            0xc6e47ad4fa403b02b4510b647ae3d1770bac0326a805bbefd48056c8c121bdb8,
            0x0000000000000000000000000000000013e02b6052719f607dacd3a088274f65,
            0x596bd0d09920b61ab5da61bbdc7f5049334cf11213945d57e5ac7d055d042b7e,
            0x000000000000000000000000000000000ce5d527727d6e118cc9cdc6da2e351a,
            0xadfd9baa8cbdd3a76d429a695160d12c923ac9cc3baca289e193548608b82801,
            0x000000000000000000000000000000000606c4a02ea734cc32acd2b02bc28b99,
            0xcb3e287e85a763af267492ab572e99ab3f370d275cec1da1aaa9075ff05f79be
        ];
        DrandBeacon other = new DrandBeacon(key, 100, 5);
        vm.expectRevert(abi.encodeWithSelector(DrandBeacon.BadSignature.selector, r.round));
        other.verify(r.round, r.words);
        vm.assertEq(uint256(other.publicKey()[7]), key[7], "key");
    }

    function test_roundsFollowTheClock() public view {
        vm.assertEq(beacon.roundAt(1692803366), 0, "before");
        vm.assertEq(beacon.roundAt(1692803367), 1, "first");
        vm.assertEq(beacon.roundAt(1692803369), 1, "still the first");
        vm.assertEq(beacon.roundAt(1692803370), 2, "second");
    }

    function refused(uint64 round, uint256[4] memory words) private {
        vm.expectRevert(abi.encodeWithSelector(DrandBeacon.BadSignature.selector, round));
        beacon.submit(round, words);
    }
}
