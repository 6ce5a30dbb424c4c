//! Plain loops, compiled once for each [level](crate::Level) and picked at run time: LLVM vectorises them
//! with what the level has, and the program still runs on every CPU.

/// The arithmetic of a level.
pub(crate) trait Simd: 'static {
    /// `a b + c`, rounded once where the level has an instruction for it.
    fn fma(a: f32, b: f32, c: f32) -> f32;
}

/// Arithmetic of the levels with a fused multiply-add.
#[cfg(any(test, target_arch = "x86_64"))]
pub(crate) struct Fused;

#[cfg(any(test, target_arch = "x86_64"))]
impl Simd for Fused {
    #[inline(always)]
    fn fma(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }
}

/// Arithmetic that every CPU of the architecture has. Where no instruction fuses a product and a sum,
/// `mul_add` would call the C library for each value.
pub(crate) struct Portable;

impl Simd for Portable {
    #[inline(always)]
    fn fma(a: f32, b: f32, c: f32) -> f32 {
        if cfg!(any(target_arch = "aarch64", target_feature = "fma")) {
            a.mul_add(b, c)
        } else {
            a * b + c
        }
    }
}

/// Functions over a [`Simd`] type, compiled for each level. A call runs the one of the current level.
macro_rules! multiversion {
    ($(
        $(#[$meta:meta])*
        $vis:vis fn $name:ident<$simd:ident>($($arg:ident: $ty:ty),* $(,)?) $body:block
    )*) => {$(
        $(#[$meta])*
        $vis fn $name($($arg: $ty),*) {
            // Inlined into each of the functions below, so that it is compiled with their features.
            #[inline(always)]
            fn of<$simd: $crate::simd::Simd>($($arg: $ty),*) $body
            $crate::simd::of_level!(of($($arg: $ty),*));
        }
    )*};
    // What the caller vouches for holds in each of the functions.
    ($(
        $(#[$meta:meta])*
        $vis:vis unsafe fn $name:ident<$simd:ident>($($arg:ident: $ty:ty),* $(,)?) $body:block
    )*) => {$(
        $(#[$meta])*
        $vis unsafe fn $name($($arg: $ty),*) {
            #[inline(always)]
            fn of<$simd: $crate::simd::Simd>($($arg: $ty),*) $body
            $crate::simd::of_level!(of($($arg: $ty),*));
        }
    )*};
}
pub(crate) use multiversion;

/// Calls `of::<S>` compiled for the current level.
macro_rules! of_level {
    ($of:ident($($arg:ident: $ty:ty),*)) => {
        #[cfg(target_arch = "x86_64")]
        {
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
            fn avx512($($arg: $ty),*) { $of::<$crate::simd::Fused>($($arg),*) }
            #[target_feature(enable = "avx2,fma")]
            fn avx2($($arg: $ty),*) { $of::<$crate::simd::Fused>($($arg),*) }
            match $crate::level::current() {
                // SAFETY: this level is current only where the CPU has all of its features, which
                // are those that `avx512` enables.
                $crate::Level::Avx512 => return unsafe { avx512($($arg),*) },
                // SAFETY: this level is current only where the CPU has AVX2 and FMA.
                $crate::Level::Avx2 => return unsafe { avx2($($arg),*) },
                _ => {}
            }
        }
        $of::<$crate::simd::Portable>($($arg),*)
    };
}
pub(crate) use of_level;
