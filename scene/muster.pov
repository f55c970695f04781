// Muster: many owners' cards gather into one machine.
//
// An animation of 24 frames (`clock` runs from 0 to 1). Cards of many owners, each glowing in its
// owner's colour, drift in out of the dark and close around one light, which grows with every card
// that arrives. Everything is computed from the card's number, so a frame needs no other frame:
// that is what lets a network of strangers render it, a frame each.
//
//   povray +Imuster.pov +Oframe_.png +W640 +H360 +A0.2 +KFI0 +KFF23 +SF7 +EF7 -D
//
// Original work, Apache-2.0 like the rest of the project.

#version 3.7;

global_settings {
  assumed_gamma 1.0
  max_trace_level 6
  adc_bailout 1/128
  ambient_light rgb 1
}

#declare CARDS = 132;
#declare SHELL = 2.45;                 // radius of the finished shell
#declare CENTRE = <0, 3.0, 0>;        // where the light hangs above the floor
#declare GOLDEN = 137.50776405;        // degrees: spreads points evenly over a sphere
#declare T = clock;

// ---- small helpers ---------------------------------------------------------------------------

#macro Clamp(V) min(1, max(0, (V))) #end
#macro Smooth(V) (Clamp(V) * Clamp(V) * (3 - 2 * Clamp(V))) #end
// A number in 0..1 that depends only on the card and on what it is for.
#macro Noise(I, Salt) mod(abs(sin((I + 1) * 12.9898 + Salt * 78.233) * 43758.5453), 1) #end
#macro Mix(A, B, V) ((A) * (1 - (V)) + (B) * (V)) #end

// One colour for each owner.
#declare OWNERS = 7;
#declare Owner = array[OWNERS] {
  <1.00, 0.115, 0.040>,   // coral
  <1.00, 0.340, 0.020>,   // amber
  <0.02, 0.700, 0.260>,   // mint
  <0.01, 0.430, 0.900>,   // sky
  <0.04, 0.100, 1.000>,   // blue
  <0.34, 0.050, 0.950>,   // violet
  <1.00, 0.035, 0.240>    // rose
}

// How far card I is on its way: 0 far out in the dark, 1 in its place. The last one lands at T = 0.95.
#macro Way(I) Smooth((T + 0.22 - 0.62 * Noise(I, 1)) / 0.55) #end

// How much of the whole has arrived: drives the light.
#declare Gathered = 0;
#for (I, 0, CARDS - 1)
  #declare Gathered = Gathered + pow(Way(I), 3) / CARDS;
#end

// ---- the room --------------------------------------------------------------------------------

#declare Angle = Mix(-26, 12, Smooth(T));
camera {
  location vrotate(<0, 2.2, -15.8 + 1.0 * Smooth(T)>, y * Angle)
  look_at <0, 2.50, 0>
  right x * image_width / image_height
  angle 46
}

sky_sphere {
  pigment {
    gradient y
    color_map {
      [0.00 rgb <0.0060, 0.0090, 0.0240>]
      [0.12 rgb <0.0030, 0.0042, 0.0130>]
      [0.60 rgb <0.0006, 0.0008, 0.0034>]
    }
  }
}

// Near the horizon the floor mirrors nearly all of the sky, so that no line divides the two.
plane {
  y, 0
  pigment { rgb <0.030, 0.032, 0.042> }
  normal { bumps 0.02 scale <0.9, 1, 0.35> }
  finish {
    ambient 0 diffuse 0.6
    specular 0.10 roughness 0.02
    reflection { 0.14, 0.95 }
  }
}

// Two quiet lights so that dark bodies have an edge.
light_source { <-12, 14, -10> rgb <0.30, 0.38, 0.60> * 0.55 shadowless }
light_source { <14, 6, 10> rgb <0.55, 0.35, 0.60> * 0.45 shadowless }

// ---- the light in the middle -----------------------------------------------------------------

#declare Power = 0.10 + 0.90 * Gathered;
#declare Warm = <1.00, 0.70, 0.40>;

light_source {
  CENTRE
  rgb Warm * 11 * Power
  fade_distance 2.6
  fade_power 2
}

#declare Core = 0.16 + 0.30 * Power;
sphere {
  CENTRE, Core
  no_shadow
  pigment { rgb Warm }
  finish { ambient 0 diffuse 0 emission 0.9 + 1.3 * Power }
}

// A soft round glow that always faces the camera.
#declare Eye = vrotate(<0, 2.2, -15.8 + 1.0 * Smooth(T)>, y * Angle);
#macro Glow(Place, Size, Inner, Outer, Strength)
  #local Away = vnormalize(Eye - Place);
  disc {
    0, Away, 1
    pigment {
      spherical
      color_map {
        [0.00 rgb Outer transmit 1]
      [0.25 rgb Outer transmit 1 - 0.02 * Strength]
      [0.50 rgb Outer transmit 1 - 0.10 * Strength]
      [0.75 rgb Inner transmit 1 - 0.34 * Strength]
      [1.00 rgb Inner transmit 1 - Strength]
    }
    }
    finish { ambient 0 diffuse 0 emission 1 }
    no_shadow
    scale Size
    translate Place
  }
#end

Glow(CENTRE, 1.6 + 3.4 * Power, Warm, <1.00, 0.42, 0.14>, 0.35 + 0.55 * Power)

// ---- a card ----------------------------------------------------------------------------------

#declare W = 0.40;      // half width
#declare H = 0.175;     // half height
#declare D = 0.035;     // half thickness

#declare Rim = union {
  cylinder { <-W, -H, 0>, < W, -H, 0>, 0.020 }
  cylinder { <-W,  H, 0>, < W,  H, 0>, 0.020 }
  cylinder { <-W, -H, 0>, <-W,  H, 0>, 0.020 }
  cylinder { < W, -H, 0>, < W,  H, 0>, 0.020 }
}
#declare Fan = torus { 0.088, 0.012 rotate x * 90 }
#declare Fans = union {
  object { Fan translate <-0.24, 0, D> }
  object { Fan translate < 0.00, 0, D> }
  object { Fan translate < 0.24, 0, D> }
}

#macro Card(Colour, Lit)
  union {
    box {
      <-W, -H, -D>, <W, H, D>
      pigment { rgb <0.10, 0.115, 0.15> }
      finish { ambient 0 diffuse 0.65 specular 0.5 roughness 0.03 reflection { 0.06 } }
    }
    object {
      Rim
      pigment { rgb Colour }
      finish { ambient 0 diffuse 0.1 emission 0.20 + 1.00 * Lit }
    }
    object {
      Fans
      pigment { rgb Colour }
      finish { ambient 0 diffuse 0.1 emission 0.05 + 0.45 * Lit }
    }
  }
#end

// ---- the gathering ---------------------------------------------------------------------------

#for (I, 0, CARDS - 1)
  #local E = Way(I);
  #local Lit = 0.25 + 0.75 * pow(E, 2);
  #local Colour = Owner[mod(floor(Noise(I, 2) * OWNERS * 3), OWNERS)];

  // Its place in the shell.
  #local Up = 1 - 2 * (I + 0.5) / CARDS;
  #local Lat = degrees(asin(Up));
  #local Lon = I * GOLDEN + 70 * T;

  // Where it comes from: a wide, flat swarm, reached along a spiral.
  #local Far = 4.9 + 5.2 * Noise(I, 3);
  #local Radius = Mix(Far, SHELL, E);
  #local LatNow = Mix((Noise(I, 4) - 0.38) * 42, Lat, E);
  #local LonNow = Lon - (1 - E) * (60 + 90 * Noise(I, 5));

  #local Place = CENTRE + vrotate(vrotate(z * Radius, x * -LatNow), y * LonNow);
  #if (Place.y < 0.35) #local Place = <Place.x, 0.35 + 0.3 * Noise(I, 9), Place.z>; #end

  object {
    Card(Colour, Lit)
    rotate <360 * Noise(I, 6), 300 * Noise(I, 7), 360 * Noise(I, 8)> * pow(1 - E, 1.5)
    rotate x * -LatNow
    rotate y * LonNow
    translate Place
  }
  // Hidden behind the finished shell a glow would only cost time.
  #if (E < 0.9 | vdot(Place - CENTRE, Eye - CENTRE) > -14)
    Glow(Place, 0.70, Colour, Colour, 0.08 + 0.20 * Lit)
  #end
#end
