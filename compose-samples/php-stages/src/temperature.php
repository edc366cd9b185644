<?php

declare(strict_types=1);

function fahrenheit(float $celsius): float
{
    if ($celsius < -273.15) {
        throw new DomainException('colder than can be');
    }
    return $celsius * 9 / 5 + 32;
}
