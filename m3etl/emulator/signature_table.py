"""Signatures of the evaluated algorithms, for clients that come without their list; a test keeps the two equal."""

# ruff: noqa: E501 - a table, one signature a line in the form of `signatures.format_signature`

SIGNATURES = r"""
AggregateFeatureCollection.array(collection:FeatureCollection | property:String) -> List<Object>
AggregateFeatureCollection.count(collection:FeatureCollection | property:String) -> Number
AggregateFeatureCollection.count_distinct(collection:FeatureCollection | property:String) -> Number
AggregateFeatureCollection.first(collection:FeatureCollection | property:String) -> <any>
AggregateFeatureCollection.histogram(collection:FeatureCollection | property:String) -> Dictionary<Object>
AggregateFeatureCollection.max(collection:FeatureCollection | property:String) -> <any>
AggregateFeatureCollection.mean(collection:FeatureCollection | property:String) -> Number
AggregateFeatureCollection.min(collection:FeatureCollection | property:String) -> <any>
AggregateFeatureCollection.product(collection:FeatureCollection | property:String) -> Number
AggregateFeatureCollection.sample_sd(collection:FeatureCollection | property:String) -> Number
AggregateFeatureCollection.sample_var(collection:FeatureCollection | property:String) -> Number
AggregateFeatureCollection.stats(collection:FeatureCollection | property:String) -> Dictionary<Object>
AggregateFeatureCollection.sum(collection:FeatureCollection | property:String) -> Number
AggregateFeatureCollection.total_sd(collection:FeatureCollection | property:String) -> Number
AggregateFeatureCollection.total_var(collection:FeatureCollection | property:String) -> Number
Array(values:Object | pixelType:PixelType=null) -> Array
Array.get(array:Array | position:List<Integer>) -> Number
Array.length(array:Array) -> Array
Array.toList(array:Array) -> List<Object>
Collection(features:List<Element>) -> FeatureCollection
Collection.bounds(collection:FeatureCollection | maxError:ErrorMargin={"type":"ErrorMargin","unit":"meters","value":0.0} | proj:Projection={"type":"Projection","crs":"EPSG:4326","transform":[1.0,0.0,0.0,0.0,1.0,0.0]}) -> Geometry
Collection.cache(collection:FeatureCollection) -> FeatureCollection!
Collection.distinct(collection:FeatureCollection | properties:Object) -> FeatureCollection
Collection.filter(collection:FeatureCollection | filter:Object) -> FeatureCollection
Collection.first(collection:FeatureCollection) -> Element
Collection.flatten(collection:FeatureCollection) -> FeatureCollection
Collection.fromColumns(columns:List<List<Object>> | propertyNames:List<String> | propertyTypes:List<Object>=null) -> FeatureCollection!
Collection.geometry(collection:FeatureCollection | maxError:ErrorMargin={"type":"ErrorMargin","unit":"meters","value":0.0}) -> Geometry
Collection.iterate(collection:FeatureCollection | function:Algorithm | first:Object=null) -> Object
Collection.limit(collection:FeatureCollection | limit:Integer=null | key:String=null | ascending:Boolean=true) -> FeatureCollection
Collection.loadTable(tableId:String | geometryColumn:String=null | version:Long=-1.0) -> FeatureCollection
Collection.map(collection:FeatureCollection | baseAlgorithm:Algorithm | dropNulls:Boolean=false) -> FeatureCollection
Collection.merge(collection1:FeatureCollection | collection2:FeatureCollection) -> FeatureCollection
Collection.randomColumn(collection:FeatureCollection | columnName:String="random" | seed:Long=0.0 | distribution:String="uniform" | rowKeys:List<String>=["system:index"]) -> FeatureCollection
Collection.reduceColumns(collection:FeatureCollection | reducer:Reducer | selectors:List<String> | weightSelectors:List<String>=null) -> Dictionary<Object>
Collection.reduceToImage(collection:FeatureCollection | properties:List<String> | reducer:Reducer) -> Image<unknown bands>
Collection.remap(collection:FeatureCollection | lookupIn:List<Object> | lookupOut:List<Integer> | columnName:String) -> FeatureCollection
Collection.size(collection:FeatureCollection) -> Integer
Collection.toList(collection:FeatureCollection | count:Integer | offset:Integer=0.0) -> List<Object>
Collection.union(collection:FeatureCollection | maxError:ErrorMargin=null) -> FeatureCollection
Date(value:Object | timeZone:String=null) -> Date
Date.advance(date:Date | delta:Float | unit:String | timeZone:String=null) -> Date
Date.difference(date:Date | start:Date | unit:String) -> Float
Date.format(date:Date | format:String=null | timeZone:String=null) -> String
Date.fromYMD(year:Integer | month:Integer | day:Integer | timeZone:String=null) -> Date
Date.get(date:Date | unit:String | timeZone:String=null) -> Long
Date.getFraction(date:Date | unit:String | timeZone:String=null) -> Float
Date.getRange(date:Date | unit:String | timeZone:String=null) -> DateRange
Date.getRelative(date:Date | unit:String | inUnit:String | timeZone:String=null) -> Long
Date.millis(date:Date) -> Long
Date.parse(format:String | date:String | timeZone:String=null) -> Date
Date.unitRatio(numerator:String | denominator:String) -> Float
Date.update(date:Date | year:Integer=null | month:Integer=null | day:Integer=null | hour:Integer=null | minute:Integer=null | second:Number=null | timeZone:String=null) -> Date
DateRange(start:Object | end:Object=null | timeZone:String=null) -> DateRange
DateRange.contains(dateRange:DateRange | other:Object) -> Boolean
DateRange.end(dateRange:DateRange) -> Date
DateRange.intersection(dateRange:DateRange | other:DateRange) -> DateRange
DateRange.intersects(dateRange:DateRange | other:DateRange) -> Boolean
DateRange.isEmpty(dateRange:DateRange) -> Boolean
DateRange.isUnbounded(dateRange:DateRange) -> Boolean
DateRange.start(dateRange:DateRange) -> Date
DateRange.unbounded() -> DateRange
DateRange.union(dateRange:DateRange | other:DateRange) -> DateRange
Dictionary(input:Object=null) -> Dictionary<Object>
Dictionary.combine(first:Dictionary<Object> | second:Dictionary<Object> | overwrite:Boolean=true) -> Dictionary<Object>
Dictionary.contains(dictionary:Dictionary<Object> | key:String) -> Boolean
Dictionary.fromLists(keys:List<String> | values:List<Object>) -> Dictionary<Object>
Dictionary.get(dictionary:Dictionary<Object> | key:String | defaultValue:Object=null) -> Object
Dictionary.getArray(dictionary:Dictionary<Object> | key:String) -> Array
Dictionary.getGeometry(dictionary:Dictionary<Object> | key:String) -> Geometry
Dictionary.getNumber(dictionary:Dictionary<Object> | key:String) -> Number
Dictionary.getString(dictionary:Dictionary<Object> | key:String) -> String
Dictionary.keys(dictionary:Dictionary<Object>) -> List<String>
Dictionary.map(dictionary:Dictionary<Object> | baseAlgorithm:Algorithm) -> Dictionary<Object>
Dictionary.remove(dictionary:Dictionary<Object> | selectors:List<String> | ignoreMissing:Boolean=false) -> Dictionary<Object>
Dictionary.rename(dictionary:Dictionary<Object> | from:List<String> | to:List<String> | overwrite:Boolean=false) -> Dictionary<Object>
Dictionary.select(dictionary:Dictionary<Object> | selectors:List<String> | ignoreMissing:Boolean=false) -> Dictionary<Object>
Dictionary.set(dictionary:Dictionary<Object> | key:String | value:Object) -> Dictionary<Object>
Dictionary.size(dictionary:Dictionary<Object>) -> Integer
Dictionary.toArray(dictionary:Dictionary<Object> | keys:List<String>=null | axis:Integer=0.0) -> Array
Dictionary.toImage(dictionary:Dictionary<Object> | names:List<String>=null) -> Image<unknown bands>
Dictionary.values(dictionary:Dictionary<Object> | keys:List<String>=null) -> List<Object>
Element.copyProperties(destination:Element=null | source:Element=null | properties:List<String>=null | exclude:List<String>=null) -> Element
Element.geometry(feature:Element | maxError:ErrorMargin=null | proj:Projection=null | geodesics:Boolean=null) -> Geometry!
Element.get(object:Element | property:String) -> <any>
Element.getArray(object:Element | property:String) -> Array
Element.getNumber(object:Element | property:String) -> Number
Element.getString(object:Element | property:String) -> String
Element.propertyNames(element:Element) -> List<Object>
Element.replaceProperties(destination:Element | source:Element=null) -> Element!
Element.set(object:Element | key:String | value:Object=null) -> Element
Element.setMulti(object:Element | properties:Dictionary<Object>) -> Element!
Element.toDictionary(element:Element | properties:List<String>=null) -> Dictionary<Object>
ErrorMargin(value:Float=null | unit:String="meters") -> ErrorMargin
Feature(geometry:Geometry=null | metadata:Dictionary<Object>={} | geometryKey:String=null) -> Feature
Feature.area(feature:Element | maxError:ErrorMargin=null | proj:Projection=null) -> Float
Feature.bounds(feature:Element | maxError:ErrorMargin=null | proj:Projection=null) -> Feature
Feature.buffer(feature:Element | distance:Float | maxError:ErrorMargin=null | proj:Projection=null) -> Feature
Feature.centroid(feature:Element | maxError:ErrorMargin=null | proj:Projection=null) -> Feature
Feature.containedIn(left:Element | right:Element | maxError:ErrorMargin=null | proj:Projection=null) -> Boolean
Feature.contains(left:Element | right:Element | maxError:ErrorMargin=null | proj:Projection=null) -> Boolean
Feature.convexHull(feature:Element | maxError:ErrorMargin=null | proj:Projection=null) -> Feature
Feature.difference(left:Element | right:Element | maxError:ErrorMargin=null | proj:Projection=null) -> Feature
Feature.disjoint(left:Element | right:Element | maxError:ErrorMargin=null | proj:Projection=null) -> Boolean
Feature.dissolve(feature:Element | maxError:ErrorMargin=null | proj:Projection=null) -> Element
Feature.distance(left:Element | right:Element | maxError:ErrorMargin=null | proj:Projection=null | spherical:Boolean=false) -> Float
Feature.geometry(feature:Element | maxError:ErrorMargin=null | proj:Projection=null | geodesics:Boolean=null) -> Geometry
Feature.id(element:Element) -> String
Feature.intersection(left:Element | right:Element | maxError:ErrorMargin=null | proj:Projection=null) -> Feature
Feature.intersects(left:Element | right:Element | maxError:ErrorMargin=null | proj:Projection=null) -> Boolean
Feature.length(feature:Element | maxError:ErrorMargin=null | proj:Projection=null) -> Float
Feature.perimeter(feature:Element | maxError:ErrorMargin=null | proj:Projection=null) -> Float
Feature.select(input:Element | propertySelectors:List<String> | newProperties:List<String>=null | retainGeometry:Boolean=true) -> Element
Feature.setGeometry(feature:Element | geometry:Geometry=null) -> Element
Feature.simplify(feature:Element | maxError:ErrorMargin | proj:Projection=null) -> Feature
Feature.symmetricDifference(left:Element | right:Element | maxError:ErrorMargin=null | proj:Projection=null) -> Feature
Feature.toArray(feature:Feature | properties:List<String>) -> Array
Feature.transform(feature:Element | proj:Projection={"type":"Projection","crs":"EPSG:4326","transform":[1.0,0.0,0.0,0.0,1.0,0.0]} | maxError:ErrorMargin=null | geodesic:Boolean=null) -> Feature
Feature.union(left:Element | right:Element | maxError:ErrorMargin=null | proj:Projection=null) -> Feature
Feature.withinDistance(left:Element | right:Element | distance:Float | maxError:ErrorMargin=null | proj:Projection=null) -> Boolean
FeatureCollection.randomPoints(region:Geometry | points:Integer=1000.0 | seed:Long=0.0 | maxError:ErrorMargin={"type":"ErrorMargin","unit":"meters","value":100.0}) -> FeatureCollection
Filter.always() -> Filter!
Filter.and(filters:List<Filter>) -> Filter
Filter.area(min:Float | max:Float | maxError:ErrorMargin=null | geometrySelector:String=null) -> Filter
Filter.calendarRange(start:Integer | end:Integer=null | field:String="day_of_year") -> Filter
Filter.contains(leftField:String=null | rightValue:Object=null | rightField:String=null | leftValue:Object=null | maxError:ErrorMargin={"type":"ErrorMargin","unit":"meters","value":0.1}) -> Filter
Filter.dateRangeContains(leftField:String=null | rightValue:Object=null | rightField:String=null | leftValue:Object=null) -> Filter
Filter.dayOfYear(start:Integer | end:Integer) -> Filter
Filter.disjoint(leftField:String=null | rightValue:Object=null | rightField:String=null | leftValue:Object=null | maxError:ErrorMargin={"type":"ErrorMargin","unit":"meters","value":0.1}) -> Filter
Filter.eq(leftField:String=null | rightValue:Object=null | rightField:String=null | leftValue:Object=null) -> Filter
Filter.equals(leftField:String=null | rightValue:Object=null | rightField:String=null | leftValue:Object=null) -> Filter
Filter.expression(expression:String) -> Filter
Filter.greaterThan(leftField:String=null | rightValue:Object=null | rightField:String=null | leftValue:Object=null) -> Filter
Filter.greaterThanOrEquals(leftField:String=null | rightValue:Object=null | rightField:String=null | leftValue:Object=null) -> Filter
Filter.gt(leftField:String=null | rightValue:Object=null | rightField:String=null | leftValue:Object=null) -> Filter
Filter.gte(leftField:String=null | rightValue:Object=null | rightField:String=null | leftValue:Object=null) -> Filter
Filter.hasGeometry() -> Filter!
Filter.hasType(leftField:String=null | rightValue:Object=null | rightField:String=null | leftValue:Object=null) -> Filter
Filter.inList(leftField:String=null | rightValue:Object=null | rightField:String=null | leftValue:Object=null) -> Filter
Filter.intersects(leftField:String=null | rightValue:Object=null | rightField:String=null | leftValue:Object=null | maxError:ErrorMargin={"type":"ErrorMargin","unit":"meters","value":0.1}) -> Filter
Filter.isContained(leftField:String=null | rightValue:Object=null | rightField:String=null | leftValue:Object=null | maxError:ErrorMargin={"type":"ErrorMargin","unit":"meters","value":0.1}) -> Filter
Filter.lessThan(leftField:String=null | rightValue:Object=null | rightField:String=null | leftValue:Object=null) -> Filter
Filter.lessThanOrEquals(leftField:String=null | rightValue:Object=null | rightField:String=null | leftValue:Object=null) -> Filter
Filter.listContains(leftField:String=null | rightValue:Object=null | rightField:String=null | leftValue:Object=null) -> Filter
Filter.lt(leftField:String=null | rightValue:Object=null | rightField:String=null | leftValue:Object=null) -> Filter
Filter.lte(leftField:String=null | rightValue:Object=null | rightField:String=null | leftValue:Object=null) -> Filter
Filter.maxDifference(difference:Float | leftField:String=null | rightValue:Object=null | rightField:String=null | leftValue:Object=null) -> Filter
Filter.neq(leftField:String=null | rightValue:Object=null | rightField:String=null | leftValue:Object=null) -> Filter
Filter.never() -> Filter!
Filter.not(filter:Filter) -> Filter
Filter.notEquals(leftField:String=null | rightValue:Object=null | rightField:String=null | leftValue:Object=null) -> Filter
Filter.notNull(properties:List<String>) -> Filter
Filter.or(filters:List<Filter>) -> Filter
Filter.rangeContains(field:String | minValue:Object | maxValue:Object) -> Filter
Filter.stringContains(leftField:String=null | rightValue:Object=null | rightField:String=null | leftValue:Object=null) -> Filter
Filter.stringEndsWith(leftField:String=null | rightValue:Object=null | rightField:String=null | leftValue:Object=null) -> Filter
Filter.stringStartsWith(leftField:String=null | rightValue:Object=null | rightField:String=null | leftValue:Object=null) -> Filter
Filter.withinDistance(distance:Float | leftField:String=null | rightValue:Object=null | rightField:String=null | leftValue:Object=null | maxError:ErrorMargin={"type":"ErrorMargin","unit":"meters","value":0.1}) -> Filter
Geometry.area(geometry:Geometry | maxError:ErrorMargin=null | proj:Projection=null) -> Float
Geometry.bounds(geometry:Geometry | maxError:ErrorMargin=null | proj:Projection=null) -> Geometry
Geometry.buffer(geometry:Geometry | distance:Float | maxError:ErrorMargin=null | proj:Projection=null) -> Geometry
Geometry.centroid(geometry:Geometry | maxError:ErrorMargin=null | proj:Projection=null) -> Geometry
Geometry.containedIn(left:Geometry | right:Geometry | maxError:ErrorMargin=null | proj:Projection=null) -> Boolean
Geometry.contains(left:Geometry | right:Geometry | maxError:ErrorMargin=null | proj:Projection=null) -> Boolean
Geometry.convexHull(geometry:Geometry | maxError:ErrorMargin=null | proj:Projection=null) -> Geometry
Geometry.coordinates(geometry:Geometry) -> List<Object>
Geometry.coveringGrid(geometry:Geometry | proj:Projection | scale:Float=null) -> FeatureCollection
Geometry.difference(left:Geometry | right:Geometry | maxError:ErrorMargin=null | proj:Projection=null) -> Geometry
Geometry.disjoint(left:Geometry | right:Geometry | maxError:ErrorMargin=null | proj:Projection=null) -> Boolean
Geometry.dissolve(geometry:Geometry | maxError:ErrorMargin=null | proj:Projection=null) -> Geometry
Geometry.distance(left:Geometry | right:Geometry | maxError:ErrorMargin=null | proj:Projection=null | spherical:Boolean=false) -> Float
Geometry.edgesAreGeodesics(geometry:Geometry) -> Boolean
Geometry.geodesic(geometry:Geometry) -> Boolean
Geometry.geometries(geometry:Geometry) -> List<Geometry>
Geometry.intersection(left:Geometry | right:Geometry | maxError:ErrorMargin=null | proj:Projection=null) -> Geometry
Geometry.intersects(left:Geometry | right:Geometry | maxError:ErrorMargin=null | proj:Projection=null) -> Boolean
Geometry.isUnbounded(geometry:Geometry) -> Boolean
Geometry.length(geometry:Geometry | maxError:ErrorMargin=null | proj:Projection=null) -> Float
Geometry.perimeter(geometry:Geometry | maxError:ErrorMargin=null | proj:Projection=null) -> Float
Geometry.projection(geometry:Geometry) -> Projection
Geometry.simplify(geometry:Geometry | maxError:ErrorMargin | proj:Projection=null) -> Geometry
Geometry.symmetricDifference(left:Geometry | right:Geometry | maxError:ErrorMargin=null | proj:Projection=null) -> Geometry
Geometry.transform(geometry:Geometry | proj:Projection={"type":"Projection","crs":"EPSG:4326","transform":[1.0,0.0,0.0,0.0,1.0,0.0]} | maxError:ErrorMargin=null | geodesic:Boolean=null) -> Geometry
Geometry.type(geometry:Geometry) -> String
Geometry.union(left:Geometry | right:Geometry | maxError:ErrorMargin=null | proj:Projection=null) -> Geometry
Geometry.withinDistance(left:Geometry | right:Geometry | distance:Float | maxError:ErrorMargin=null | proj:Projection=null) -> Boolean
GeometryConstructors.BBox(west:Float | south:Float | east:Float | north:Float) -> Geometry
GeometryConstructors.LineString(coordinates:List<Object> | crs:Projection=null | geodesic:Boolean=null | maxError:ErrorMargin=null) -> Geometry
GeometryConstructors.LinearRing(coordinates:List<Object> | crs:Projection=null | geodesic:Boolean=null | maxError:ErrorMargin=null) -> Geometry
GeometryConstructors.MultiGeometry(geometries:List<Geometry> | crs:Projection=null | geodesic:Boolean=null | maxError:ErrorMargin=null) -> Geometry
GeometryConstructors.MultiLineString(coordinates:List<Object> | crs:Projection=null | geodesic:Boolean=null | maxError:ErrorMargin=null) -> Geometry
GeometryConstructors.MultiPoint(coordinates:List<Object> | crs:Projection=null) -> Geometry
GeometryConstructors.MultiPolygon(coordinates:List<Object> | crs:Projection=null | geodesic:Boolean=null | maxError:ErrorMargin=null | evenOdd:Boolean=true) -> Geometry
GeometryConstructors.Point(coordinates:List<Number> | crs:Projection=null) -> Geometry
GeometryConstructors.Polygon(coordinates:List<Object> | crs:Projection=null | geodesic:Boolean=null | maxError:ErrorMargin=null | evenOdd:Boolean=true) -> Geometry
GeometryConstructors.Rectangle(coordinates:List<Object> | crs:Projection=null | geodesic:Boolean=null | evenOdd:Boolean=true) -> Geometry
If(condition:Object=null | trueCase:Object=null | falseCase:Object=null) -> Object
Image.abs(value:Image<unknown bands>) -> Image<unknown bands>
Image.acos(value:Image<unknown bands>) -> Image<unknown bands>
Image.add(image1:Image<unknown bands> | image2:Image<unknown bands>) -> Image<unknown bands>
Image.addBands(dstImg:Image<unknown bands> | srcImg:Image<unknown bands> | names:List<String>=null | overwrite:Boolean=false) -> Image<unknown bands>
Image.and(image1:Image<unknown bands> | image2:Image<unknown bands>) -> Image<unknown bands>
Image.asin(value:Image<unknown bands>) -> Image<unknown bands>
Image.atan(value:Image<unknown bands>) -> Image<unknown bands>
Image.atan2(image1:Image<unknown bands> | image2:Image<unknown bands>) -> Image<unknown bands>
Image.bandNames(image:Image<unknown bands>) -> List<Object>
Image.bandTypes(image:Image<unknown bands>) -> Dictionary<Object>
Image.bitCount(value:Image<unknown bands>) -> Image<unknown bands>
Image.bitwiseAnd(image1:Image<unknown bands> | image2:Image<unknown bands>) -> Image<unknown bands>
Image.bitwiseNot(value:Image<unknown bands>) -> Image<unknown bands>
Image.bitwiseOr(image1:Image<unknown bands> | image2:Image<unknown bands>) -> Image<unknown bands>
Image.bitwiseXor(image1:Image<unknown bands> | image2:Image<unknown bands>) -> Image<unknown bands>
Image.bitwise_and(image1:Image<unknown bands> | image2:Image<unknown bands>) -> Image<unknown bands>!
Image.bitwise_not(value:Image<unknown bands>) -> Image<unknown bands>!
Image.bitwise_or(image1:Image<unknown bands> | image2:Image<unknown bands>) -> Image<unknown bands>!
Image.bitwise_xor(image1:Image<unknown bands> | image2:Image<unknown bands>) -> Image<unknown bands>!
Image.blend(bottom:Image<unknown bands> | top:Image<unknown bands>) -> Image<unknown bands>
Image.byte(value:Image<unknown bands>) -> Image<unknown bands>
Image.cast(image:Image<unknown bands> | bandTypes:Dictionary<Object> | bandOrder:List<String>=null) -> Image<unknown bands>
Image.cat(images:List<Object>) -> Image<unknown bands>
Image.cbrt(value:Image<unknown bands>) -> Image<unknown bands>
Image.ceil(value:Image<unknown bands>) -> Image<unknown bands>
Image.changeProj(input:Image<unknown bands> | srcProj:Projection | dstProj:Projection) -> Image<unknown bands>
Image.clamp(input:Image<unknown bands> | low:Float | high:Float) -> Image<unknown bands>
Image.clip(input:Image<unknown bands> | geometry:Object) -> Image<unknown bands>
Image.clipToBoundsAndScale(input:Image<unknown bands> | geometry:Geometry=null | width:Integer=null | height:Integer=null | maxDimension:Integer=null | scale:Float=null) -> Image<unknown bands>
Image.clipToCollection(input:Image<unknown bands> | collection:Object) -> Image<unknown bands>
Image.constant(value:Object) -> Image<unknown bands>
Image.convolve(image:Image<unknown bands> | kernel:Kernel) -> Image<unknown bands>
Image.copyProperties(destination:Element=null | source:Element=null | properties:List<String>=null | exclude:List<String>=null) -> Element
Image.cos(value:Image<unknown bands>) -> Image<unknown bands>
Image.cosh(value:Image<unknown bands>) -> Image<unknown bands>
Image.date(image:Image<unknown bands>) -> Date
Image.divide(image1:Image<unknown bands> | image2:Image<unknown bands>) -> Image<unknown bands>
Image.double(value:Image<unknown bands>) -> Image<unknown bands>
Image.eq(image1:Image<unknown bands> | image2:Image<unknown bands>) -> Image<unknown bands>
Image.erf(value:Image<unknown bands>) -> Image<unknown bands>
Image.erfc(value:Image<unknown bands>) -> Image<unknown bands>
Image.exp(value:Image<unknown bands>) -> Image<unknown bands>
Image.first(image1:Image<unknown bands> | image2:Image<unknown bands>) -> Image<unknown bands>
Image.firstNonZero(image1:Image<unknown bands> | image2:Image<unknown bands>) -> Image<unknown bands>
Image.first_nonzero(image1:Image<unknown bands> | image2:Image<unknown bands>) -> Image<unknown bands>!
Image.float(value:Image<unknown bands>) -> Image<unknown bands>
Image.floor(value:Image<unknown bands>) -> Image<unknown bands>
Image.focalMax(image:Image<unknown bands> | radius:Float=1.5 | kernelType:String="circle" | units:String="pixels" | iterations:Integer=1.0 | kernel:Kernel=null) -> Image<unknown bands>
Image.focalMean(image:Image<unknown bands> | radius:Float=1.5 | kernelType:String="circle" | units:String="pixels" | iterations:Integer=1.0 | kernel:Kernel=null) -> Image<unknown bands>
Image.focalMedian(image:Image<unknown bands> | radius:Float=1.5 | kernelType:String="circle" | units:String="pixels" | iterations:Integer=1.0 | kernel:Kernel=null) -> Image<unknown bands>
Image.focalMin(image:Image<unknown bands> | radius:Float=1.5 | kernelType:String="circle" | units:String="pixels" | iterations:Integer=1.0 | kernel:Kernel=null) -> Image<unknown bands>
Image.focalMode(image:Image<unknown bands> | radius:Float=1.5 | kernelType:String="circle" | units:String="pixels" | iterations:Integer=1.0 | kernel:Kernel=null) -> Image<unknown bands>
Image.focal_max(image:Image<unknown bands> | radius:Float=1.5 | kernelType:String="circle" | units:String="pixels" | iterations:Integer=1.0 | kernel:Kernel=null) -> Image<unknown bands>!
Image.focal_mean(image:Image<unknown bands> | radius:Float=1.5 | kernelType:String="circle" | units:String="pixels" | iterations:Integer=1.0 | kernel:Kernel=null) -> Image<unknown bands>!
Image.focal_median(image:Image<unknown bands> | radius:Float=1.5 | kernelType:String="circle" | units:String="pixels" | iterations:Integer=1.0 | kernel:Kernel=null) -> Image<unknown bands>!
Image.focal_min(image:Image<unknown bands> | radius:Float=1.5 | kernelType:String="circle" | units:String="pixels" | iterations:Integer=1.0 | kernel:Kernel=null) -> Image<unknown bands>!
Image.focal_mode(image:Image<unknown bands> | radius:Float=1.5 | kernelType:String="circle" | units:String="pixels" | iterations:Integer=1.0 | kernel:Kernel=null) -> Image<unknown bands>!
Image.gamma(value:Image<unknown bands>) -> Image<unknown bands>
Image.geometry(feature:Element | maxError:ErrorMargin=null | proj:Projection=null | geodesics:Boolean=null) -> Geometry
Image.gradient(input:Image<unknown bands>) -> Image<unknown bands>
Image.gt(image1:Image<unknown bands> | image2:Image<unknown bands>) -> Image<unknown bands>
Image.gte(image1:Image<unknown bands> | image2:Image<unknown bands>) -> Image<unknown bands>
Image.hypot(image1:Image<unknown bands> | image2:Image<unknown bands>) -> Image<unknown bands>
Image.id(element:Element) -> String
Image.int(value:Image<unknown bands>) -> Image<unknown bands>
Image.int16(value:Image<unknown bands>) -> Image<unknown bands>
Image.int32(value:Image<unknown bands>) -> Image<unknown bands>
Image.int64(value:Image<unknown bands>) -> Image<unknown bands>
Image.int8(value:Image<unknown bands>) -> Image<unknown bands>
Image.interpolate(image:Image<unknown bands> | x:List<Float> | y:List<Float> | behavior:String="extrapolate") -> Image<unknown bands>
Image.leftShift(image1:Image<unknown bands> | image2:Image<unknown bands>) -> Image<unknown bands>
Image.left_shift(image1:Image<unknown bands> | image2:Image<unknown bands>) -> Image<unknown bands>!
Image.linkCollection(input:Image<unknown bands> | imageCollection:ImageCollection | linkedBands:Object=null | linkedProperties:Object=null | matchPropertyName:String="system:index") -> Image<unknown bands>
Image.load(id:String | version:Long=-1.0) -> Image<unknown bands>
Image.log(value:Image<unknown bands>) -> Image<unknown bands>
Image.log10(value:Image<unknown bands>) -> Image<unknown bands>
Image.long(value:Image<unknown bands>) -> Image<unknown bands>
Image.lt(image1:Image<unknown bands> | image2:Image<unknown bands>) -> Image<unknown bands>
Image.lte(image1:Image<unknown bands> | image2:Image<unknown bands>) -> Image<unknown bands>
Image.mask(image:Image<unknown bands> | mask:Image<unknown bands>=null) -> Image<unknown bands>
Image.max(image1:Image<unknown bands> | image2:Image<unknown bands>) -> Image<unknown bands>
Image.metadata(image:Image<unknown bands> | property:String | name:String=null) -> Image<unknown bands>
Image.min(image1:Image<unknown bands> | image2:Image<unknown bands>) -> Image<unknown bands>
Image.mod(image1:Image<unknown bands> | image2:Image<unknown bands>) -> Image<unknown bands>
Image.multiply(image1:Image<unknown bands> | image2:Image<unknown bands>) -> Image<unknown bands>
Image.neq(image1:Image<unknown bands> | image2:Image<unknown bands>) -> Image<unknown bands>
Image.normalizedDifference(input:Image<unknown bands> | bandNames:List<String>=null) -> Image<unknown bands>
Image.not(value:Image<unknown bands>) -> Image<unknown bands>
Image.or(image1:Image<unknown bands> | image2:Image<unknown bands>) -> Image<unknown bands>
Image.paint(image:Image<unknown bands> | featureCollection:FeatureCollection | color:Object=0.0 | width:Object=null) -> Image<unknown bands>
Image.parseExpression(expression:String | argName:String | vars:List<String> | mapFreeVarsToDefaultImageBands:Boolean=false) -> Algorithm!
Image.pixelArea() -> Image<unknown bands>
Image.pixelCoordinates(projection:Projection) -> Image<unknown bands>
Image.pixelLonLat() -> Image<unknown bands>
Image.polynomial(image:Image<unknown bands> | coefficients:List<Float>) -> Image<unknown bands>
Image.pow(image1:Image<unknown bands> | image2:Image<unknown bands>) -> Image<unknown bands>
Image.projection(image:Image<unknown bands>) -> Projection
Image.random(seed:Long=0.0 | distribution:String="uniform") -> Image<unknown bands>
Image.reduce(image:Image<unknown bands> | reducer:Reducer) -> Image<unknown bands>
Image.reduceNeighborhood(image:Image<unknown bands> | reducer:Reducer | kernel:Kernel | inputWeight:String="kernel" | skipMasked:Boolean=true | optimization:String=null) -> Image<unknown bands>
Image.reduceRegion(image:Image<unknown bands> | reducer:Reducer | geometry:Geometry=null | scale:Float=null | crs:Projection=null | crsTransform:List<Float>=null | bestEffort:Boolean=false | maxPixels:Long=10000000.0 | tileScale:Float=1.0) -> Dictionary<Object>
Image.reduceRegions(image:Image<unknown bands> | collection:FeatureCollection | reducer:Reducer | scale:Float=null | crs:Projection=null | crsTransform:List<Float>=null | tileScale:Float=1.0 | maxPixelsPerRegion:Long=null) -> FeatureCollection
Image.reduceResolution(image:Image<unknown bands> | reducer:Reducer | bestEffort:Boolean=false | maxPixels:Integer=64.0) -> Image<unknown bands>
Image.regexpRename(input:Image<unknown bands> | regex:String | replacement:String | all:Boolean=true) -> Image<unknown bands>
Image.remap(image:Image<unknown bands> | from:List<Object> | to:List<Object> | defaultValue:Object=null | bandName:String=null) -> Image<unknown bands>
Image.rename(input:Image<unknown bands> | names:List<String>) -> Image<unknown bands>
Image.reproject(image:Image<unknown bands> | crs:Projection | crsTransform:List<Float>=null | scale:Float=null) -> Image<unknown bands>
Image.resample(image:Image<unknown bands> | mode:String="bilinear") -> Image<unknown bands>
Image.rightShift(image1:Image<unknown bands> | image2:Image<unknown bands>) -> Image<unknown bands>
Image.right_shift(image1:Image<unknown bands> | image2:Image<unknown bands>) -> Image<unknown bands>!
Image.round(value:Image<unknown bands>) -> Image<unknown bands>
Image.sample(image:Image<unknown bands> | region:Geometry=null | scale:Float=null | projection:Projection=null | factor:Float=null | numPixels:Long=null | seed:Integer=0.0 | dropNulls:Boolean=true | tileScale:Float=1.0 | geometries:Boolean=false) -> FeatureCollection
Image.sampleRectangle(image:Image<unknown bands> | region:Geometry=null | properties:List<String>=null | defaultValue:Float=null | defaultArrayValue:Array=null) -> Feature
Image.sampleRegions(image:Image<unknown bands> | collection:FeatureCollection | properties:List<String>=null | scale:Float=null | projection:Projection=null | tileScale:Float=1.0 | geometries:Boolean=false) -> FeatureCollection
Image.select(input:Image<unknown bands> | bandSelectors:List<Object> | newNames:List<String>=null) -> Image<unknown bands>
Image.selfMask(image:Image<unknown bands>) -> Image<unknown bands>
Image.setDefaultProjection(image:Image<unknown bands> | crs:Projection | crsTransform:List<Float>=null | scale:Float=null) -> Image<unknown bands>
Image.short(value:Image<unknown bands>) -> Image<unknown bands>
Image.signum(value:Image<unknown bands>) -> Image<unknown bands>
Image.sin(value:Image<unknown bands>) -> Image<unknown bands>
Image.sinh(value:Image<unknown bands>) -> Image<unknown bands>
Image.slice(image:Image<unknown bands> | start:Integer | end:Integer=null) -> Image<unknown bands>
Image.sqrt(value:Image<unknown bands>) -> Image<unknown bands>
Image.stratifiedSample(image:Image<unknown bands> | numPoints:Integer | classBand:String=null | region:Geometry=null | scale:Float=null | projection:Projection=null | seed:Integer=0.0 | classValues:List<Integer>=null | classPoints:List<Integer>=null | dropNulls:Boolean=true | tileScale:Float=1.0 | geometries:Boolean=false) -> FeatureCollection
Image.subtract(image1:Image<unknown bands> | image2:Image<unknown bands>) -> Image<unknown bands>
Image.tan(value:Image<unknown bands>) -> Image<unknown bands>
Image.tanh(value:Image<unknown bands>) -> Image<unknown bands>
Image.toByte(value:Image<unknown bands>) -> Image<unknown bands>
Image.toDouble(value:Image<unknown bands>) -> Image<unknown bands>
Image.toFloat(value:Image<unknown bands>) -> Image<unknown bands>
Image.toInt(value:Image<unknown bands>) -> Image<unknown bands>
Image.toInt16(value:Image<unknown bands>) -> Image<unknown bands>
Image.toInt32(value:Image<unknown bands>) -> Image<unknown bands>
Image.toInt64(value:Image<unknown bands>) -> Image<unknown bands>
Image.toInt8(value:Image<unknown bands>) -> Image<unknown bands>
Image.toLong(value:Image<unknown bands>) -> Image<unknown bands>
Image.toShort(value:Image<unknown bands>) -> Image<unknown bands>
Image.toUint16(value:Image<unknown bands>) -> Image<unknown bands>
Image.toUint32(value:Image<unknown bands>) -> Image<unknown bands>
Image.toUint8(value:Image<unknown bands>) -> Image<unknown bands>
Image.translate(input:Image<unknown bands> | x:Float | y:Float | units:String="meters" | proj:Projection=null) -> Image<unknown bands>
Image.uint16(value:Image<unknown bands>) -> Image<unknown bands>
Image.uint32(value:Image<unknown bands>) -> Image<unknown bands>
Image.uint8(value:Image<unknown bands>) -> Image<unknown bands>
Image.unitScale(input:Image<unknown bands> | low:Float | high:Float) -> Image<unknown bands>
Image.unmask(input:Image<unknown bands> | value:Image<unknown bands>=null | sameFootprint:Boolean=true) -> Image<unknown bands>
Image.updateMask(image:Image<unknown bands> | mask:Image<unknown bands>) -> Image<unknown bands>
Image.visualize(image:Image<unknown bands> | bands:Object=null | gain:Object=null | bias:Object=null | min:Object=null | max:Object=null | gamma:Object=null | opacity:Number=null | palette:Object=null | forceRgbOutput:Boolean=false) -> Image<unknown bands>
Image.where(input:Image<unknown bands> | test:Image<unknown bands> | value:Image<unknown bands>) -> Image<unknown bands>
ImageCollection.cast(collection:ImageCollection | bandTypes:Dictionary<Object> | bandOrder:List<String>) -> ImageCollection
ImageCollection.combine(primary:ImageCollection | secondary:ImageCollection | overwrite:Boolean=false) -> ImageCollection
ImageCollection.fromImages(images:List<Image<unknown bands>>) -> ImageCollection
ImageCollection.getRegion(collection:ImageCollection | geometry:Geometry | scale:Float=null | crs:Projection={"type":"Projection","crs":"EPSG:4326","transform":[1.0,0.0,0.0,0.0,1.0,0.0]} | crsTransform:List<Float>=null) -> List<Object>
ImageCollection.load(id:String | version:Long=null) -> ImageCollection
ImageCollection.merge(collection1:ImageCollection | collection2:ImageCollection) -> ImageCollection
ImageCollection.mosaic(collection:ImageCollection) -> Image<unknown bands>
ImageCollection.qualityMosaic(collection:ImageCollection | qualityBand:String) -> Image<unknown bands>
ImageCollection.reduce(collection:ImageCollection | reducer:Reducer | parallelScale:Float=1.0) -> Image<unknown bands>
ImageCollection.toBands(collection:ImageCollection) -> Image<unknown bands>
IsEqual(left:Object=null | right:Object=null) -> Boolean
Join.apply(join:Join | primary:FeatureCollection | secondary:FeatureCollection | condition:Filter) -> FeatureCollection
Join.inner(primaryKey:String="primary" | secondaryKey:String="secondary" | measureKey:String=null) -> Join
Join.inverted() -> Join
Join.saveAll(matchesKey:String | ordering:String=null | ascending:Boolean=true | measureKey:String=null | outer:Boolean=false) -> Join
Join.saveBest(matchKey:String | measureKey:String | outer:Boolean=false) -> Join
Join.saveFirst(matchKey:String | ordering:String=null | ascending:Boolean=true | measureKey:String=null | outer:Boolean=false) -> Join
Join.simple() -> Join
Kernel.chebyshev(radius:Float | units:String="pixels" | normalize:Boolean=false | magnitude:Float=1.0) -> Kernel
Kernel.circle(radius:Float | units:String="pixels" | normalize:Boolean=true | magnitude:Float=1.0) -> Kernel
Kernel.cross(radius:Float | units:String="pixels" | normalize:Boolean=true | magnitude:Float=1.0) -> Kernel
Kernel.diamond(radius:Float | units:String="pixels" | normalize:Boolean=true | magnitude:Float=1.0) -> Kernel
Kernel.euclidean(radius:Float | units:String="pixels" | normalize:Boolean=false | magnitude:Float=1.0) -> Kernel
Kernel.fixed(width:Integer=-1.0 | height:Integer=-1.0 | weights:List<List<Object>> | x:Integer=-1.0 | y:Integer=-1.0 | normalize:Boolean=false) -> Kernel
Kernel.gaussian(radius:Float | sigma:Float=1.0 | units:String="pixels" | normalize:Boolean=true | magnitude:Float=1.0) -> Kernel
Kernel.manhattan(radius:Float | units:String="pixels" | normalize:Boolean=false | magnitude:Float=1.0) -> Kernel
Kernel.octagon(radius:Float | units:String="pixels" | normalize:Boolean=true | magnitude:Float=1.0) -> Kernel
Kernel.plus(radius:Float | units:String="pixels" | normalize:Boolean=true | magnitude:Float=1.0) -> Kernel
Kernel.rectangle(xRadius:Float | yRadius:Float | units:String="pixels" | normalize:Boolean=true | magnitude:Float=1.0) -> Kernel
Kernel.square(radius:Float | units:String="pixels" | normalize:Boolean=true | magnitude:Float=1.0) -> Kernel
List.add(list:List<Object> | element:Object) -> List<Object>
List.cat(list:List<Object> | other:List<Object>) -> List<Object>
List.contains(list:List<Object> | element:Object) -> Boolean
List.containsAll(list:List<Object> | other:List<Object>) -> Boolean
List.distinct(list:List<Object>) -> List<Object>
List.equals(list:List<Object> | other:List<Object>) -> Boolean
List.filter(list:List<Object> | filter:Filter) -> List<Object>
List.flatten(list:List<Object>) -> List<Object>
List.frequency(list:List<Object> | element:Object) -> Integer
List.get(list:List<Object> | index:Integer) -> Object
List.getArray(list:List<Object> | index:Integer) -> Array
List.getGeometry(list:List<Object> | index:Integer) -> Geometry
List.getNumber(list:List<Object> | index:Integer) -> Number
List.getString(list:List<Object> | index:Integer) -> String
List.indexOf(list:List<Object> | element:Object) -> Integer
List.indexOfSublist(list:List<Object> | target:List<Object>) -> Integer
List.insert(list:List<Object> | index:Integer | element:Object) -> List<Object>
List.iterate(list:List<Object> | function:Algorithm | first:Object) -> Object
List.join(list:List<Object> | separator:String="") -> String
List.length(list:List<Object>) -> Integer
List.map(list:List<Object> | baseAlgorithm:Algorithm | dropNulls:Boolean=false) -> List<Object>
List.reduce(list:List<Object> | reducer:Reducer) -> Object
List.remove(list:List<Object> | element:Object) -> List<Object>
List.removeAll(list:List<Object> | other:List<Object>) -> List<Object>
List.repeat(value:Object | count:Integer) -> List<Object>
List.replace(list:List<Object> | oldval:Object | newval:Object) -> List<Object>
List.replaceAll(list:List<Object> | oldval:Object | newval:Object) -> List<Object>
List.reverse(list:List<Object>) -> List<Object>
List.rotate(list:List<Object> | distance:Integer) -> List<Object>
List.sequence(start:Number | end:Number=null | step:Number=1.0 | count:Integer=null) -> List<Object>
List.set(list:List<Object> | index:Integer | element:Object) -> List<Object>
List.shuffle(list:List<Object> | seed:Object=null) -> List<Object>
List.size(list:List<Object>) -> Integer
List.slice(list:List<Object> | start:Integer | end:Integer=null | step:Integer=null) -> List<Object>
List.sort(list:List<Object> | keys:List<Object>=null) -> List<Object>
List.splice(list:List<Object> | start:Integer | count:Integer | other:List<Object>=null) -> List<Object>
List.swap(list:List<Object> | pos1:Integer | pos2:Integer) -> List<Object>
List.unzip(list:List<Object>) -> List<List<Object>>
List.zip(list:List<Object> | other:List<Object>) -> List<List<Object>>
Number.abs(input:Number) -> Number
Number.acos(input:Number) -> Number
Number.add(left:Number | right:Number) -> Number
Number.and(left:Number | right:Number) -> Number
Number.asin(input:Number) -> Number
Number.atan(input:Number) -> Number
Number.atan2(left:Number | right:Number) -> Number
Number.bitCount(input:Number) -> Number
Number.bitwiseAnd(left:Number | right:Number) -> Number
Number.bitwiseNot(input:Number) -> Number
Number.bitwiseOr(left:Number | right:Number) -> Number
Number.bitwiseXor(left:Number | right:Number) -> Number
Number.bitwise_and(left:Number | right:Number) -> Number!
Number.bitwise_not(input:Number) -> Number!
Number.bitwise_or(left:Number | right:Number) -> Number!
Number.bitwise_xor(left:Number | right:Number) -> Number!
Number.byte(input:Number) -> Number
Number.cbrt(input:Number) -> Number
Number.ceil(input:Number) -> Number
Number.clamp(number:Number | min:Float | max:Float) -> Number
Number.cos(input:Number) -> Number
Number.cosh(input:Number) -> Number
Number.divide(left:Number | right:Number) -> Number
Number.double(input:Number) -> Number
Number.eq(left:Number | right:Number) -> Number
Number.erf(input:Number) -> Number
Number.erfc(input:Number) -> Number
Number.exp(input:Number) -> Number
Number.first(left:Number | right:Number) -> Number
Number.firstNonZero(left:Number | right:Number) -> Number
Number.first_nonzero(left:Number | right:Number) -> Number!
Number.float(input:Number) -> Number
Number.floor(input:Number) -> Number
Number.format(number:Number | pattern:String="%s") -> String
Number.gamma(input:Number) -> Number
Number.gt(left:Number | right:Number) -> Number
Number.gte(left:Number | right:Number) -> Number
Number.hypot(left:Number | right:Number) -> Number
Number.int(input:Number) -> Number
Number.int16(input:Number) -> Number
Number.int32(input:Number) -> Number
Number.int64(input:Number) -> Number
Number.int8(input:Number) -> Number
Number.leftShift(left:Number | right:Number) -> Number
Number.left_shift(left:Number | right:Number) -> Number!
Number.log(input:Number) -> Number
Number.log10(input:Number) -> Number
Number.long(input:Number) -> Number
Number.lt(left:Number | right:Number) -> Number
Number.lte(left:Number | right:Number) -> Number
Number.max(left:Number | right:Number) -> Number
Number.min(left:Number | right:Number) -> Number
Number.mod(left:Number | right:Number) -> Number
Number.multiply(left:Number | right:Number) -> Number
Number.neq(left:Number | right:Number) -> Number
Number.not(input:Number) -> Number
Number.or(left:Number | right:Number) -> Number
Number.parse(input:String | radix:Integer=10.0) -> Number
Number.pow(left:Number | right:Number) -> Number
Number.rightShift(left:Number | right:Number) -> Number
Number.right_shift(left:Number | right:Number) -> Number!
Number.round(input:Number) -> Number
Number.short(input:Number) -> Number
Number.signum(input:Number) -> Number
Number.sin(input:Number) -> Number
Number.sinh(input:Number) -> Number
Number.sqrt(input:Number) -> Number
Number.subtract(left:Number | right:Number) -> Number
Number.tan(input:Number) -> Number
Number.tanh(input:Number) -> Number
Number.toByte(input:Number) -> Number
Number.toDouble(input:Number) -> Number
Number.toFloat(input:Number) -> Number
Number.toInt(input:Number) -> Number
Number.toInt16(input:Number) -> Number
Number.toInt32(input:Number) -> Number
Number.toInt64(input:Number) -> Number
Number.toInt8(input:Number) -> Number
Number.toLong(input:Number) -> Number
Number.toShort(input:Number) -> Number
Number.toUint16(input:Number) -> Number
Number.toUint32(input:Number) -> Number
Number.toUint8(input:Number) -> Number
Number.uint16(input:Number) -> Number
Number.uint32(input:Number) -> Number
Number.uint8(input:Number) -> Number
Number.unitScale(number:Number | min:Float | max:Float) -> Number
ObjectType(value:Object=null) -> String
PixelType(precision:Object | minValue:Number=null | maxValue:Number=null | dimensions:Integer=0.0) -> PixelType
PixelType.double() -> PixelType
PixelType.float() -> PixelType
PixelType.int16() -> PixelType
PixelType.int32() -> PixelType
PixelType.int64() -> PixelType
PixelType.int8() -> PixelType
PixelType.maxValue(pixelType:PixelType) -> Number
PixelType.minValue(pixelType:PixelType) -> Number
PixelType.precision(pixelType:PixelType) -> String
PixelType.uint16() -> PixelType
PixelType.uint32() -> PixelType
PixelType.uint8() -> PixelType
Proj(crs:Object | transform:List<Object>=null | transformWkt:String=null) -> Projection
Projection(crs:Object | transform:List<Object>=null | transformWkt:String=null) -> Projection
Projection.atScale(projection:Projection | meters:Float) -> Projection
Projection.crs(projection:Projection) -> String
Projection.nominalScale(proj:Projection) -> Float
Projection.scale(projection:Projection | x:Float | y:Float) -> Projection
Projection.transform(projection:Projection) -> String
Projection.translate(projection:Projection | x:Float | y:Float) -> Projection
Projection.wkt(projection:Projection) -> String
Reducer.allNonZero() -> Reducer
Reducer.and() -> Reducer
Reducer.anyNonZero() -> Reducer
Reducer.bitwiseAnd() -> Reducer
Reducer.bitwiseOr() -> Reducer
Reducer.circularMean() -> Reducer
Reducer.combine(reducer1:Reducer | reducer2:Reducer | outputPrefix:String="" | sharedInputs:Boolean=false) -> Reducer
Reducer.count() -> Reducer
Reducer.countDistinct() -> Reducer
Reducer.countDistinctNonNull() -> Reducer
Reducer.countEvery() -> Reducer
Reducer.first() -> Reducer
Reducer.firstNonNull() -> Reducer
Reducer.fixedHistogram(min:Float | max:Float | steps:Integer | cumulative:Boolean=false) -> Reducer
Reducer.forEach(reducer:Reducer | outputNames:List<String>) -> Reducer
Reducer.frequencyHistogram() -> Reducer
Reducer.getOutputs(reducer:Reducer) -> List<Object>
Reducer.group(reducer:Reducer | groupField:Integer=0.0 | groupName:String="group") -> Reducer
Reducer.histogram(maxBuckets:Integer=null | minBucketWidth:Float=null | maxRaw:Integer=null) -> Reducer
Reducer.kurtosis() -> Reducer
Reducer.last() -> Reducer
Reducer.lastNonNull() -> Reducer
Reducer.linearFit() -> Reducer
Reducer.max(numInputs:Integer=1.0) -> Reducer
Reducer.mean() -> Reducer
Reducer.median(maxBuckets:Integer=null | minBucketWidth:Float=null | maxRaw:Integer=null) -> Reducer
Reducer.min(numInputs:Integer=1.0) -> Reducer
Reducer.minMax() -> Reducer
Reducer.mode(maxBuckets:Integer=null | minBucketWidth:Float=null | maxRaw:Integer=null) -> Reducer
Reducer.or() -> Reducer
Reducer.pearsonsCorrelation() -> Reducer
Reducer.percentile(percentiles:List<Number> | outputNames:List<String>=null | maxBuckets:Integer=null | minBucketWidth:Float=null | maxRaw:Integer=null) -> Reducer
Reducer.product() -> Reducer
Reducer.repeat(reducer:Reducer | count:Integer) -> Reducer
Reducer.sampleStdDev() -> Reducer
Reducer.sampleVariance() -> Reducer
Reducer.setOutputs(reducer:Reducer | outputs:List<String>) -> Reducer
Reducer.skew() -> Reducer
Reducer.splitWeights(reducer:Reducer) -> Reducer
Reducer.stdDev() -> Reducer
Reducer.sum() -> Reducer
Reducer.toList(tupleSize:Integer=null | numOptional:Integer=0.0) -> Reducer
Reducer.unweighted(reducer:Reducer) -> Reducer
Reducer.variance() -> Reducer
String(input:Object) -> String
String.cat(string1:String | string2:String) -> String
String.compareTo(string1:String | string2:String) -> Integer
String.decodeJSON(string:String) -> Object
String.encodeJSON(object:Object) -> String
String.equals(reference:String | target:Object) -> Boolean
String.index(target:String | pattern:String) -> Integer
String.length(string:String) -> Integer
String.match(input:String | regex:String | flags:String="") -> List<String>
String.replace(input:String | regex:String | replacement:String | flags:String="") -> String
String.rindex(target:String | pattern:String) -> Integer
String.slice(string:String | start:Integer | end:Integer=null) -> String
String.split(string:String | regex:String | flags:String="") -> List<String>
String.toLowerCase(string:String) -> String
String.toUpperCase(string:String) -> String
String.trim(string:String) -> String
Terrain(input:Image<unknown bands>) -> Image<unknown bands>
Terrain.aspect(input:Image<unknown bands>) -> Image<unknown bands>
Terrain.hillshade(input:Image<unknown bands> | azimuth:Float=270.0 | elevation:Float=45.0) -> Image<unknown bands>
Terrain.products(input:Image<unknown bands>) -> Image<unknown bands>
Terrain.slope(input:Image<unknown bands>) -> Image<unknown bands>
Window.max(image:Image<unknown bands> | radius:Float=1.5 | kernelType:String="circle" | units:String="pixels" | iterations:Integer=1.0 | kernel:Kernel=null) -> Image<unknown bands>!
Window.mean(image:Image<unknown bands> | radius:Float=1.5 | kernelType:String="circle" | units:String="pixels" | iterations:Integer=1.0 | kernel:Kernel=null) -> Image<unknown bands>!
Window.median(image:Image<unknown bands> | radius:Float=1.5 | kernelType:String="circle" | units:String="pixels" | iterations:Integer=1.0 | kernel:Kernel=null) -> Image<unknown bands>!
Window.min(image:Image<unknown bands> | radius:Float=1.5 | kernelType:String="circle" | units:String="pixels" | iterations:Integer=1.0 | kernel:Kernel=null) -> Image<unknown bands>!
Window.mode(image:Image<unknown bands> | radius:Float=1.5 | kernelType:String="circle" | units:String="pixels" | iterations:Integer=1.0 | kernel:Kernel=null) -> Image<unknown bands>!
reduce.and(collection:ImageCollection) -> Image<unknown bands>
reduce.count(collection:ImageCollection) -> Image<unknown bands>
reduce.max(collection:ImageCollection) -> Image<unknown bands>
reduce.mean(collection:ImageCollection) -> Image<unknown bands>
reduce.median(collection:ImageCollection) -> Image<unknown bands>
reduce.min(collection:ImageCollection) -> Image<unknown bands>
reduce.mode(collection:ImageCollection) -> Image<unknown bands>
reduce.or(collection:ImageCollection) -> Image<unknown bands>
reduce.product(collection:ImageCollection) -> Image<unknown bands>
reduce.sum(collection:ImageCollection) -> Image<unknown bands>
"""
