// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {CheckerLicence} from "../../src/CheckerLicence.sol";
import {MusterToken} from "../../src/MusterToken.sol";
import {Base} from "../utils/Base.sol";
import {Invariants} from "../utils/Invariants.sol";

/// Random deeds of owners of licences.
contract LicencesHandler is Base {
    uint256 public constant CAP = 40;
    CheckerLicence public immutable licences;

    constructor(CheckerLicence licences_, MusterToken token_) {
        licences = licences_;
        token = token_;
    }

    function setUp() public pure override {}

    function checker(uint256 i) public pure returns (bytes32) {
        return keccak256(abi.encode("checker", i % 3));
    }

    function owner(uint256 i) public pure returns (address) {
        return address(uint160(0xa0000 + i % 3));
    }

    function buy(uint256 who, uint256 count) external {
        count = bound(count, 1, 6);
        uint256 left = CAP - licences.totalSupply();
        vm.prank(owner(who));
        try licences.buy(count, 1e18) {
            vm.assertLe(count, left, "above the cap");
        } catch {
            vm.assertGt(count, left, "refused below the cap");
        }
    }

    function delegate(uint256 id, uint256 to) external {
        if (licences.totalSupply() == 0) return;
        id = 1 + id % licences.totalSupply();
        address holder = licences.ownerOf(id);
        vm.prank(holder);
        licences.delegateOne(id, checker(to));
    }

    function undelegate(uint256 id) external {
        if (licences.totalSupply() == 0) return;
        id = 1 + id % licences.totalSupply();
        if (licences.delegateOf(id) == 0) return;
        address holder = licences.ownerOf(id);
        vm.prank(holder);
        licences.undelegateOne(id);
    }

    function give(uint256 id, uint256 to) external {
        if (licences.totalSupply() == 0) return;
        id = 1 + id % licences.totalSupply();
        address from = licences.ownerOf(id);
        vm.prank(from);
        licences.transferFrom(from, owner(to), id);
        vm.assertEq(licences.delegateOf(id), 0, "a transfer ends the delegation");
    }
}

/// Licences are never above the cap, and counts of delegations are the sums of what is delegated.
contract LicencesInvariant is Invariants {
    CheckerLicence private licences;
    LicencesHandler private deeds;

    function setUp() public override {
        super.setUp();
        licences = new CheckerLicence(address(token), address(registry), admin, treasury, 40, 1e18);
        deeds = new LicencesHandler(licences, token);
        handler = address(deeds);
        for (uint256 i = 0; i < 3; ++i) {
            bytes32 key = deeds.checker(i);
            vm.prank(provider);
            registry.register(3, key, "", 0, MIN_STAKE);
            address who = deeds.owner(i);
            fund(who, 100e18);
            vm.prank(who);
            token.approve(address(licences), type(uint256).max);
        }
    }

    function invariant_countsAreSums() public view {
        uint256[3] memory sums;
        uint256 sold = licences.totalSupply();
        vm.assertLe(sold, deeds.CAP(), "the cap");
        for (uint256 id = 1; id <= sold; ++id) {
            for (uint256 i = 0; i < 3; ++i) {
                if (licences.delegateOf(id) == deeds.checker(i)) ++sums[i];
            }
        }
        for (uint256 i = 0; i < 3; ++i) {
            vm.assertEq(licences.delegatedCount(deeds.checker(i)), sums[i], "delegated");
        }
    }
}
